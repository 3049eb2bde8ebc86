//! Apache Kafka in KRaft mode, broker and controller in one JVM.
//!
//! The data folder is formatted once and survives restarts. Node id, voters and replication are parameters, so a
//! cluster is several of these on one list of voters.

use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::sys::signal::Signal;

use crate::artifacts::{Artifacts, java};
use crate::child::{Child, describe};
use crate::{kafka_probe, service_process};

/// The cluster id that every local data folder is formatted with.
pub const CLUSTER_ID: &str = "5L6g3nShT-eMCtK--X86sw";
/// How long a broker may take to answer; a cold machine needs about 4 s.
const START_BOUND: Duration = Duration::from_secs(120);
/// How long it may take to stop in order before it is killed.
const STOP_BOUND: Duration = Duration::from_secs(20);
const LOG4J: &str = "rootLogger.level=warn\nrootLogger.appenderRef.out.ref=out\nappender.out.type=Console\n\
    appender.out.name=out\nappender.out.layout.type=PatternLayout\nappender.out.layout.pattern=[%d] %p %m (%c)%n\n";

/// How to run one broker.
#[derive(Clone, Debug)]
pub struct KafkaOptions {
    /// Where it keeps its log segments, configuration and output; made when missing.
    pub data_dir: PathBuf,
    /// The port for clients, on 127.0.0.1.
    pub port: u16,
    /// This node's id.
    pub node_id: u32,
    /// Every controller of the cluster: (node id, controller port), this node's own included.
    pub voters: Vec<(u32, u16)>,
    /// Copies of the internal topics' partitions.
    pub replication: usize,
    /// The JVM's largest heap, in MiB.
    pub heap_mib: u32,
    /// More flags for the JVM.
    pub jvm_flags: Vec<String>,
    /// More lines for server.properties; a later one wins.
    pub settings: Vec<(String, String)>,
}

impl KafkaOptions {
    /// A single broker on `port` with its controller on `controller_port`.
    pub fn single(data_dir: impl Into<PathBuf>, port: u16, controller_port: u16) -> Self {
        Self {
            data_dir: data_dir.into(),
            port,
            node_id: 1,
            voters: vec![(1, controller_port)],
            replication: 1,
            heap_mib: 512,
            jvm_flags: Vec::new(),
            settings: Vec::new(),
        }
    }

    /// Settings for short-lived brokers with many tests: groups may notice a dead member within a second, a new topic
    /// costs little, and the JVM doesn't spend a third of its start on optimising what soon ends.
    #[must_use]
    pub fn for_tests(mut self) -> Self {
        let settings = [
            ("group.min.session.timeout.ms", "1000"),
            ("log.index.size.max.bytes", "65536"),
            ("file.delete.delay.ms", "1000"),
        ];
        self.jvm_flags.push("-XX:TieredStopAtLevel=1".to_owned());
        self.settings.extend(settings.map(|(name, value)| (name.to_owned(), value.to_owned())));
        self
    }

    fn properties(&self) -> Result<String> {
        let own = self.voters.iter().find(|(id, _)| *id == self.node_id);
        let (_, controller_port) = own.context("a broker must be among its own voters")?;
        let voters: Vec<String> = self.voters.iter().map(|(id, port)| format!("{id}@127.0.0.1:{port}")).collect();
        let replication = self.replication.to_string();
        let in_sync = self.replication.div_ceil(2).to_string();
        let mut lines = vec![
            ("process.roles", "broker,controller".to_owned()),
            ("node.id", self.node_id.to_string()),
            ("controller.quorum.voters", voters.join(",")),
            ("controller.listener.names", "CONTROLLER".to_owned()),
            ("listeners", format!("PLAINTEXT://127.0.0.1:{},CONTROLLER://127.0.0.1:{controller_port}", self.port)),
            ("advertised.listeners", format!("PLAINTEXT://127.0.0.1:{}", self.port)),
            ("log.dirs", self.log_dir().display().to_string()),
            // Topics come from deploy/topics.toml; a misspelt name must fail.
            ("auto.create.topics.enable", "false".to_owned()),
            // Otherwise the first member of every group waits 3 s for others.
            ("group.initial.rebalance.delay.ms", "0".to_owned()),
            ("offsets.topic.replication.factor", replication.clone()),
            ("offsets.topic.num.partitions", "8".to_owned()),
            ("transaction.state.log.replication.factor", replication.clone()),
            ("transaction.state.log.min.isr", in_sync.clone()),
            ("share.coordinator.state.topic.replication.factor", replication.clone()),
            ("share.coordinator.state.topic.min.isr", in_sync),
            ("default.replication.factor", replication),
            // A broker that was killed may not come back before its last session has ended: 9 s by default.
            ("broker.session.timeout.ms", "3000".to_owned()),
            ("broker.heartbeat.interval.ms", "500".to_owned()),
            // 128 MiB of heap by default, for compacted topics that hold a few offsets here.
            ("log.cleaner.dedupe.buffer.size", "4194304".to_owned()),
        ];
        lines.extend(self.settings.iter().map(|(key, value)| (key.as_str(), value.clone())));
        Ok(lines.iter().map(|(key, value)| format!("{key}={value}\n")).collect())
    }

    fn log_dir(&self) -> PathBuf {
        self.data_dir.join("log")
    }
}

/// A running broker; dropping it stops it.
#[derive(Debug)]
pub struct Kafka {
    options: KafkaOptions,
    artifacts: Artifacts,
    child: Option<Child>,
}

impl Kafka {
    /// Formats the data folder when it is new, starts the broker and waits until it knows every broker of its cluster.
    ///
    /// # Errors
    /// When the programs cannot be fetched, or the broker does not start (its log's end is in the error).
    pub async fn start(options: KafkaOptions) -> Result<Self> {
        let mut kafka = Self::launch(options).await?;
        kafka.wait_ready().await?;
        Ok(kafka)
    }

    /// Like [`Kafka::start`] without the wait: the members of a cluster wait for each other.
    ///
    /// # Errors
    /// When the programs cannot be fetched or run.
    pub async fn launch(mut options: KafkaOptions) -> Result<Self> {
        let artifacts = Artifacts::ensure().await?;
        std::fs::create_dir_all(&options.data_dir).with_context(|| format!("making {}", options.data_dir.display()))?;
        options.data_dir = options.data_dir.canonicalize()?;
        let mut kafka = Self { options, artifacts, child: None };
        kafka.spawn().await?;
        Ok(kafka)
    }

    /// Waits until the broker answers and knows every broker of its cluster.
    ///
    /// # Errors
    /// When it ends or does not answer within two minutes.
    pub async fn wait_ready(&mut self) -> Result<()> {
        let start = Instant::now();
        let wanted = self.options.voters.len();
        loop {
            if kafka_probe::brokers(self.options.port).await.is_ok_and(|count| count >= wanted) {
                return Ok(());
            }
            let ended = self.child.as_mut().map_or(Ok(None), Child::status)?;
            let tail = || service_process::tail(&self.log_file());
            if let Some(status) = ended {
                bail!("Kafka ended with {} instead of starting:\n{}", describe(status), tail());
            }
            if start.elapsed() > START_BOUND {
                bail!("Kafka did not answer within {} s:\n{}", START_BOUND.as_secs(), tail());
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Where clients connect.
    pub fn bootstrap(&self) -> String {
        format!("127.0.0.1:{}", self.options.port)
    }

    /// The JVM's process id, `None` while stopped.
    pub fn pid(&self) -> Option<u32> {
        self.child.as_ref().map(Child::pid)
    }

    /// How it ended if it has ended by itself, for supervision.
    ///
    /// # Errors
    /// When the operating system does not say.
    pub fn ended(&mut self) -> Result<Option<String>> {
        let status = self.child.as_mut().map_or(Ok(None), Child::status)?;
        Ok(status.map(describe))
    }

    /// Stops it in order; killed after 20 s.
    ///
    /// # Errors
    /// When it does not end.
    pub async fn stop(&mut self) -> Result<()> {
        if let Some(mut child) = self.child.take() {
            child.stop(STOP_BOUND).await?;
        }
        Ok(())
    }

    /// Stops it with SIGKILL.
    ///
    /// # Errors
    /// When it does not end.
    pub async fn kill(&mut self) -> Result<()> {
        if let Some(mut child) = self.child.take() {
            child.kill().await?;
        }
        Ok(())
    }

    /// Starts it on the same data and port after [`Kafka::stop`] or [`Kafka::kill`], and waits until it is ready.
    ///
    /// # Errors
    /// As [`Kafka::start`].
    pub async fn start_again(&mut self) -> Result<()> {
        self.launch_again().await?;
        self.wait_ready().await
    }

    /// Like [`Kafka::start_again`] without the wait.
    ///
    /// # Errors
    /// As [`Kafka::launch`].
    pub async fn launch_again(&mut self) -> Result<()> {
        self.kill().await?;
        self.spawn().await
    }

    /// Runs one of Kafka's own tools (a Java class) to its end; what it printed.
    ///
    /// # Errors
    /// When it cannot be started or fails; what it printed is in the error.
    pub async fn tool(&self, class: &str, arguments: &[&str]) -> Result<String> {
        let mut command = self.java(&["-Xmx128m".to_owned(), "-XX:TieredStopAtLevel=1".to_owned()], class);
        command.args(arguments).stdin(Stdio::null());
        let output = tokio::task::spawn_blocking(move || command.output()).await?.with_context(|| class.to_owned())?;
        let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
        if !output.status.success() {
            bail!("{class} ended with {}:\n{said}", describe(output.status));
        }
        Ok(said)
    }

    /// The file with its output.
    pub fn log_file(&self) -> PathBuf {
        self.options.data_dir.join("kafka.log")
    }

    async fn spawn(&mut self) -> Result<()> {
        let folder = &self.options.data_dir;
        std::fs::write(folder.join("server.properties"), self.options.properties()?)?;
        std::fs::write(folder.join("log4j2.properties"), LOG4J)?;
        self.format().await?;
        let mut flags = vec![format!("-Xmx{}m", self.options.heap_mib)];
        flags.extend(self.options.jvm_flags.iter().cloned());
        let mut command = self.java(&flags, "kafka.Kafka");
        command.arg(folder.join("server.properties"));
        let output = service_process::open_log(&self.log_file())?;
        command.stdin(Stdio::null()).stderr(output.try_clone()?).stdout(output);
        self.child = Some(Child::spawn("Kafka", &mut command, Signal::SIGTERM)?);
        Ok(())
    }

    /// Kafka writes meta.properties last, so a folder that has it is formatted.
    async fn format(&self) -> Result<()> {
        if self.options.log_dir().join("meta.properties").exists() {
            return Ok(());
        }
        let mut command =
            self.java(&["-Xmx128m".to_owned(), "-XX:TieredStopAtLevel=1".to_owned()], "kafka.tools.StorageTool");
        command.args(["format", "--ignore-formatted", "-t", CLUSTER_ID, "-c"]);
        command.arg(self.options.data_dir.join("server.properties"));
        let output = tokio::task::spawn_blocking(move || command.output())
            .await?
            .context("starting java: is Java 17 or later installed? deploy/bootstrap.sh says how")?;
        if !output.status.success() {
            bail!(
                "formatting Kafka's data folder failed:\n{}{}",
                String::from_utf8_lossy(&output.stdout),
                String::from_utf8_lossy(&output.stderr)
            );
        }
        Ok(())
    }

    fn java(&self, flags: &[String], class: &str) -> Command {
        let mut command = Command::new(java());
        command
            .current_dir(&self.options.data_dir)
            .args(flags)
            .arg("-Djava.awt.headless=true")
            .arg(format!("-Dlog4j2.configurationFile={}", self.options.data_dir.join("log4j2.properties").display()))
            .arg("-cp")
            .arg(self.artifacts.kafka_libs.join("*"))
            .arg(class);
        command
    }
}
