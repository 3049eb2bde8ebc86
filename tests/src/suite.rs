//! The suite's programs as processes, on databases, topics, ports and folders of their own.

use std::collections::BTreeMap;
use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use futures::future::{join_all, try_join_all};
use ops::verify::MailSource;
use testkit::{
    Cluster, Scratch, ServiceOptions, ServiceProcess, TestDatabase, TestTopics, binary, faulty_binary, free_port,
};

use crate::target::{Target, http_client};
use crate::{BOUND, Service};

/// What lets operators in, at every service.
pub const OPERATOR_TOKEN: &str = "the-operators-word-of-the-stories";

/// A build of the services.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Build {
    /// The one that is for use.
    Ordinary,
    /// The one with crash points and removable guards.
    Faulty,
}

/// How the suite is set up.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Instances of each service.
    pub instances: usize,
    /// Partitions of each topic.
    pub partitions: i32,
    /// `RETRY_DELAYS_MS`.
    pub retry_delays_ms: Vec<u64>,
    /// `GATEWAY_TIMEOUT_MS`.
    pub gateway_timeout_ms: u64,
    /// How soon a member that was killed is given up by its group.
    pub session_timeout_ms: u64,
    /// The profile of `deploy/topics.toml`.
    pub profile: String,
    /// How long an instance may take to become ready.
    pub ready_within: Duration,
    /// Which build of the services runs.
    pub build: Build,
    /// What follows the database's name in `DATABASE_URL`.
    pub database_options: String,
    /// More variables for every service; a later one wins.
    pub environment: Vec<(String, String)>,
    /// And for one of them, later still.
    pub environment_of: BTreeMap<Service, Vec<(String, String)>>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            instances: 1,
            partitions: 2,
            // In all longer than the lease of a mail, which is twice SMTP_TIMEOUT_MS.
            retry_delays_ms: vec![200, 400, 1_500, 3_000],
            gateway_timeout_ms: 1_500,
            session_timeout_ms: 2_000,
            profile: "local".to_owned(),
            ready_within: BOUND,
            build: Build::Ordinary,
            database_options: String::new(),
            environment: Vec::new(),
            environment_of: BTreeMap::new(),
        }
    }
}

/// One process.
#[derive(Debug)]
pub(crate) struct Instance {
    pub(crate) process: ServiceProcess,
    url: String,
}

/// A running suite.
#[derive(Debug)]
pub struct Suite {
    pub(crate) instances: BTreeMap<(Service, usize), Instance>,
    gateway: Instance,
    settings: Settings,
    // Before the databases, to which it holds connections.
    target: Target,
    _databases: Vec<TestDatabase>,
    topics: TestTopics,
    // Last, so that the programs have ended when it goes.
    folder: Scratch,
}

impl Suite {
    /// Starts everything and waits until it is ready.
    ///
    /// # Errors
    /// When a program is not built, cannot be started or does not become ready.
    pub async fn start(cluster: &Cluster, settings: &Settings) -> Result<Self> {
        let mut suite = Self::launch(cluster, settings).await?;
        suite.gateway.ready(settings.ready_within).await?;
        suite.wait_ready().await?;
        Ok(suite)
    }

    /// Starts everything, without waiting for it.
    ///
    /// # Errors
    /// When a program is not built, or cannot be started.
    pub async fn launch(cluster: &Cluster, settings: &Settings) -> Result<Self> {
        let folder = Scratch::new("system")?;
        std::fs::create_dir(folder.path().join("mails"))?;
        let topics = cluster.topics();
        let (_, databases) = tokio::try_join!(
            topics.apply_profile(&settings.profile, settings.partitions),
            try_join_all(
                Service::ALL.map(async |service| anyhow::Ok((service, cluster.database(service.database()).await?)))
            ),
        )?;
        let gateway = spawn_gateway(&folder)?;
        let target = Target {
            http: http_client()?,
            urls: BTreeMap::new(),
            databases: databases.iter().map(|(service, it)| (*service, (it.url.clone(), it.pool.clone()))).collect(),
            gateway_url: gateway.url.clone(),
            bootstrap: cluster.bootstrap().to_owned(),
            prefix: topics.prefix().to_owned(),
            mails: MailSource::Folder(folder.path().join("mails")),
        };
        let mut suite = Self {
            instances: BTreeMap::new(),
            gateway,
            settings: settings.clone(),
            target,
            _databases: databases.into_iter().map(|(_, database)| database).collect(),
            topics,
            folder,
        };
        for service in Service::ALL {
            for index in 0..settings.instances {
                suite.start_another(service, index)?;
            }
        }
        Ok(suite)
    }

    /// Starts one more instance, without waiting for it.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start_another(&mut self, service: Service, index: usize) -> Result<()> {
        let instance = self.spawn(service, index)?;
        self.target.urls.insert((service, index), instance.url.clone());
        self.instances.insert((service, index), instance);
        Ok(())
    }

    /// [`Suite::stop`]s an instance for good.
    ///
    /// # Errors
    /// As [`Suite::stop`].
    pub async fn retire(&mut self, service: Service, index: usize) -> Result<()> {
        let stopped = self.stop(service, index).await;
        self.instances.remove(&(service, index));
        self.target.urls.remove(&(service, index));
        stopped
    }

    /// The instances that have ended, by themselves or killed, each with how and its last words.
    pub fn ended(&mut self) -> Vec<(Service, usize, String)> {
        let ended = self.instances.iter_mut().filter_map(|((service, index), instance)| {
            let status = instance.process.ended().ok().flatten()?;
            let tail = instance.process.tail();
            let last = tail.lines().rev().find(|line| !line.trim().is_empty() && !line.starts_with("---"));
            Some((*service, *index, format!("{status}; {}", last.unwrap_or("it said nothing"))))
        });
        ended.collect()
    }

    fn spawn(&self, service: Service, index: usize) -> Result<Instance> {
        let settings = &self.settings;
        let delays: Vec<String> = settings.retry_delays_ms.iter().map(u64::to_string).collect();
        let environment = [
            ("DATABASE_URL", self.database_url(service).to_owned() + &settings.database_options),
            ("DATABASE_POOL_SIZE", "6".to_owned()),
            ("KAFKA_BOOTSTRAP", self.bootstrap().to_owned()),
            ("TOPIC_PREFIX", self.topics.prefix().to_owned()),
            ("RETRY_DELAYS_MS", delays.join(",")),
            ("SESSION_TIMEOUT_MS", settings.session_timeout_ms.to_string()),
            ("GATEWAY_URL", self.gateway.url.clone()),
            ("GATEWAY_TIMEOUT_MS", settings.gateway_timeout_ms.to_string()),
            ("OPERATOR_TOKEN", OPERATOR_TOKEN.to_owned()),
            ("INTENT_POLL_MS", "200".to_owned()),
            ("INTENT_RETRY_MS", "200".to_owned()),
            // And with it the lease of a mail that nobody is sending any more.
            ("SMTP_TIMEOUT_MS", "1500".to_owned()),
            ("MAIL_DIR", self.mail_dir().display().to_string()),
        ];
        let environment = environment.map(|(name, value)| (name.to_owned(), value)).into_iter();
        let more = settings.environment.iter().chain(settings.environment_of.get(&service).into_iter().flatten());
        let environment = environment.chain(more.cloned()).collect();
        let program = match settings.build {
            Build::Ordinary => binary(service.name())?,
            Build::Faulty => faulty_binary(service.name())?,
        };
        spawn(&self.folder, service.name(), program, index, environment)
    }

    /// Waits until every running instance is ready.
    ///
    /// # Errors
    /// When one is not.
    pub async fn wait_ready(&mut self) -> Result<()> {
        let bound = self.settings.ready_within;
        let running = self.instances.values_mut().filter_map(|instance| match instance.process.ended() {
            Ok(None) => Some(instance.ready(bound)),
            Ok(Some(_)) | Err(_) => None,
        });
        join_all(running).await.into_iter().collect()
    }

    /// Kills an instance with SIGKILL.
    ///
    /// # Errors
    /// When it had ended by itself, or survives.
    pub async fn kill9(&mut self, service: Service, index: usize) -> Result<()> {
        let process = &mut self.instance_mut(service, index)?.process;
        ensure!(process.ended()?.is_none(), "{} had ended by itself:\n{}", process.name(), process.tail());
        process.kill9().await?;
        Ok(())
    }

    /// Kills every instance of every service at once.
    ///
    /// # Errors
    /// When one survives.
    pub async fn kill9_all(&mut self) -> Result<()> {
        let killed = join_all(self.instances.values_mut().map(|instance| instance.process.kill9())).await;
        killed.into_iter().try_for_each(|status| status.map(|_| ()))
    }

    /// Asks an instance to stop (SIGTERM) and waits until it has, in order.
    ///
    /// # Errors
    /// When it takes longer than an orderly stop may, or ends with another status than 0.
    pub async fn stop(&mut self, service: Service, index: usize) -> Result<()> {
        self.instance_mut(service, index)?.terminate().await
    }

    /// [`Suite::stop`] for every instance of every service, at the same time.
    ///
    /// # Errors
    /// As [`Suite::stop`].
    pub async fn stop_all(&mut self) -> Result<()> {
        join_all(self.instances.values_mut().map(Instance::terminate)).await.into_iter().collect()
    }

    /// Starts an instance again, as it was, without waiting for it.
    ///
    /// # Errors
    /// When it cannot be started.
    pub async fn restart(&mut self, service: Service, index: usize) -> Result<()> {
        self.instance_mut(service, index)?.process.start_again().await
    }

    /// Starts everything again and waits until it is ready.
    ///
    /// # Errors
    /// When something cannot be started or does not become ready.
    pub async fn restart_all(&mut self) -> Result<()> {
        for instance in self.instances.values_mut() {
            instance.process.start_again().await?;
        }
        self.wait_ready().await
    }

    /// Kills the gateway: from then on its port refuses connections.
    ///
    /// # Errors
    /// When it survives.
    pub async fn stop_gateway(&mut self) -> Result<()> {
        self.gateway.process.kill9().await.map(|_| ())
    }

    /// Freezes an instance (SIGSTOP).
    ///
    /// # Errors
    /// When it cannot be signalled.
    pub fn pause(&mut self, service: Service, index: usize) -> Result<()> {
        self.instance_mut(service, index)?.process.pause()
    }

    /// Lets a frozen instance go on.
    ///
    /// # Errors
    /// When it cannot be signalled.
    pub fn resume(&mut self, service: Service, index: usize) -> Result<()> {
        self.instance_mut(service, index)?.process.resume()
    }

    /// Ends everything at once: what a suite leaves behind is thrown away anyway.
    pub async fn throw_away(mut self) {
        let _ = self.kill9_all().await;
        let _ = self.gateway.process.kill9().await;
    }

    /// The end of every program's log, for a failed story.
    pub fn logs(&self) -> String {
        let programs = self.instances.values().chain([&self.gateway]);
        programs.map(|instance| instance.process.tail()).collect::<Vec<_>>().join("\n")
    }

    /// Where logs, mails and the gateway's ledger are.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Where mails go.
    pub fn mail_dir(&self) -> PathBuf {
        self.folder.path().join("mails")
    }

    pub(crate) fn instance_mut(&mut self, service: Service, index: usize) -> Result<&mut Instance> {
        let found = self.instances.get_mut(&(service, index));
        found.with_context(|| format!("there is no {} {index}", service.name()))
    }
}

impl Deref for Suite {
    type Target = Target;

    fn deref(&self) -> &Target {
        &self.target
    }
}

impl Instance {
    async fn ready(&mut self, bound: Duration) -> Result<()> {
        let url = format!("{}/readyz", self.url);
        self.process.wait_ready(&url, bound).await
    }

    pub(crate) async fn terminate(&mut self) -> Result<()> {
        let status = self.process.terminate(Duration::from_secs(15)).await?;
        ensure!(status.success(), "{} ended with {status}:\n{}", self.process.name(), self.process.tail());
        Ok(())
    }
}

fn spawn_gateway(folder: &Scratch) -> Result<Instance> {
    let ledger = folder.path().join("ledger.jsonl").display().to_string();
    spawn(folder, "sandbox-gateway", binary("sandbox-gateway")?, 0, vec![("LEDGER_FILE".to_owned(), ledger)])
}

fn spawn(
    folder: &Scratch,
    name: &str,
    program: PathBuf,
    index: usize,
    environment: Vec<(String, String)>,
) -> Result<Instance> {
    let address = format!("127.0.0.1:{}", free_port()?);
    let common =
        [("HTTP_ADDR", address.as_str()), ("LOG_FORMAT", "text"), ("RUST_LOG", "info,sqlx=warn,librdkafka=warn")];
    let environment =
        common.map(|(name, value)| (name.to_owned(), value.to_owned())).into_iter().chain(environment).collect();
    let process = ServiceProcess::spawn(ServiceOptions {
        name: format!("{name} {index}"),
        program,
        arguments: vec!["serve".to_owned()],
        environment,
        log_file: folder.path().join(format!("{name}-{index}.log")),
    })?;
    Ok(Instance { process, url: format!("http://{address}") })
}
