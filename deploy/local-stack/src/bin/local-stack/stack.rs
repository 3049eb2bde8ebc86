//! The running suite: servers, gateway and services, started in order and stopped in the opposite one.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::path::Path;
use std::process::{Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use local_stack::child::{Child, describe};
use local_stack::postgres::write_private;
use local_stack::service_process::tail;
use local_stack::{Kafka, KafkaOptions, Postgres, PostgresOptions, ServiceOptions, ServiceProcess};
use nix::sys::signal::Signal;
use tokio::task::JoinSet;

use crate::settings::{SERVICES, Service, Settings};
use crate::state::DataFolder;

/// Migrations, and the first answer of `/readyz`.
const READY_BOUND: Duration = Duration::from_secs(120);
/// A one-off command: migrations, topics.
const COMMAND_BOUND: Duration = Duration::from_secs(180);
/// A service drains within 10 s; then it is killed.
const DRAIN_BOUND: Duration = Duration::from_secs(15);

/// Variables for a child.
pub type Environment = Vec<(String, String)>;

/// What runs so far. Stopping it in order is [`Stack::stop`]; dropping it ends everything at once.
#[derive(Default)]
pub struct Stack {
    services: Vec<Running>,
    kafka: Option<Kafka>,
    postgres: Option<Postgres>,
    kafka_restarts: Restarts,
    postgres_restarts: Restarts,
}

struct Running {
    process: ServiceProcess,
    ready_url: String,
    restarts: Restarts,
}

impl Stack {
    /// Starts what the settings don't take from elsewhere, up to ready services; the variables for the command line.
    pub async fn start(&mut self, settings: &Settings, folder: &DataFolder) -> Result<Environment> {
        settings.check_ports()?;
        let kafka = self.start_servers(settings, folder.path()).await?;
        let urls = self.databases(settings).await?;
        let token = operator_token();
        let environment = addresses(settings, &kafka, &urls, folder.path(), &token);
        write_stack_env(&folder.path().join("stack.env"), &environment)?;

        say("applying topics");
        let log = folder.log("topics");
        run_once(settings, "suite", &["topics", "apply"], &environment, &log).await?;
        say("applying migrations");
        for service in &SERVICES {
            let variables = service_environment(settings, service, &kafka, &urls, folder.path());
            run_once(settings, service.name, &["migrate"], &variables, &folder.log(service.name)).await?;
        }

        say("starting the services");
        self.spawn_services(settings, folder, &kafka, &urls, &token)?;
        for running in &mut self.services {
            running.process.wait_ready(&running.ready_url, READY_BOUND).await?;
        }
        Ok(environment)
    }

    /// Watches until something cannot be kept running: a process that ends is started again, a few times.
    pub async fn supervise(&mut self) -> Result<Infallible> {
        loop {
            tokio::time::sleep(Duration::from_millis(200)).await;
            for running in &mut self.services {
                let Some(status) = running.process.ended()? else { continue };
                running.restarts.note(running.process.name(), &describe(status), running.process.log_file())?;
                running.process.start_again().await?;
            }
            if let Some(kafka) = &mut self.kafka
                && let Some(how) = kafka.ended()?
            {
                self.kafka_restarts.note("Kafka", &how, &kafka.log_file())?;
                kafka.launch_again().await?;
            }
            if let Some(postgres) = &mut self.postgres
                && let Some(how) = postgres.ended()?
            {
                self.postgres_restarts.note("PostgreSQL", &how, &postgres.log_file())?;
                postgres.start_again().await?;
            }
        }
    }

    /// Services first (all drain at once), the gateway that they call, then Kafka, then PostgreSQL.
    pub async fn stop(&mut self) -> Result<()> {
        let mut failed = Vec::new();
        let (gateway, services): (Vec<_>, Vec<_>) =
            self.services.drain(..).partition(|running| running.process.name() == "sandbox-gateway");
        for layer in [services, gateway] {
            let mut stops = JoinSet::new();
            for mut running in layer {
                stops.spawn(async move { (running.process.terminate(DRAIN_BOUND).await, running.process) });
            }
            while let Some(stop) = stops.join_next().await {
                let (outcome, process) = stop.context("a stop panicked")?;
                match outcome {
                    Ok(status) if status.success() => say(&format!("{} stopped", process.name())),
                    Ok(status) => say(&format!("{} stopped with {}", process.name(), describe(status))),
                    Err(error) => failed.push(format!("{error:#}")),
                }
            }
        }
        if let Some(mut kafka) = self.kafka.take() {
            kafka.stop().await.unwrap_or_else(|error| failed.push(format!("{error:#}")));
            say("Kafka stopped");
        }
        if let Some(mut postgres) = self.postgres.take() {
            postgres.stop().await.unwrap_or_else(|error| failed.push(format!("{error:#}")));
            say("PostgreSQL stopped");
        }
        if !failed.is_empty() {
            bail!("not everything stopped in order:\n{}", failed.join("\n"));
        }
        Ok(())
    }

    async fn start_servers(&mut self, settings: &Settings, data: &Path) -> Result<String> {
        let (kafka_port, controller) = (settings.port("KAFKA_PORT"), settings.port("KAFKA_CONTROLLER_PORT"));
        let kafka = async {
            if settings.kafka_bootstrap.is_some() {
                return Ok(None);
            }
            let kafka = Kafka::start(KafkaOptions::single(data.join("kafka"), kafka_port, controller)).await?;
            anyhow::Ok(Some(kafka))
        };
        let postgres = async {
            if settings.database_urls.len() == SERVICES.len() {
                return Ok(None);
            }
            let options = PostgresOptions::new(data.join("postgres"), settings.port("POSTGRES_PORT"));
            anyhow::Ok(Some(Postgres::start(options).await?))
        };
        say("starting Kafka and PostgreSQL");
        (self.kafka, self.postgres) = tokio::try_join!(kafka, postgres)?;
        let own = self.kafka.as_ref().map(Kafka::bootstrap);
        own.or_else(|| settings.kafka_bootstrap.clone()).context("there is no Kafka")
    }

    /// The address of every service's database, made here where none was given.
    async fn databases(&mut self, settings: &Settings) -> Result<BTreeMap<&'static str, String>> {
        let mut urls = settings.database_urls.clone();
        for service in SERVICES.iter().filter(|service| !settings.database_urls.contains_key(service.key)) {
            let postgres = self.postgres.as_mut().context("there is no PostgreSQL")?;
            urls.insert(service.key, postgres.create_database(service.database, service.role).await?);
        }
        Ok(urls)
    }

    fn spawn_services(
        &mut self,
        settings: &Settings,
        folder: &DataFolder,
        kafka: &str,
        urls: &BTreeMap<&'static str, String>,
        token: &str,
    ) -> Result<()> {
        std::fs::create_dir_all(folder.path().join("gateway"))?;
        let ledger = folder.path().join("gateway/ledger.jsonl").display().to_string();
        let port = settings.port("GATEWAY_PORT");
        let environment = vec![("HTTP_ADDR".to_owned(), loopback(port)), ("LEDGER_FILE".to_owned(), ledger)];
        self.spawn(settings, folder, "sandbox-gateway", port, environment)?;
        for service in &SERVICES {
            let mut environment = service_environment(settings, service, kafka, urls, folder.path());
            environment.push(("OPERATOR_TOKEN".to_owned(), token.to_owned()));
            self.spawn(settings, folder, service.name, settings.service_port(service), environment)?;
        }
        Ok(())
    }

    fn spawn(
        &mut self,
        settings: &Settings,
        folder: &DataFolder,
        name: &str,
        port: u16,
        environment: Environment,
    ) -> Result<()> {
        let process = ServiceProcess::spawn(ServiceOptions {
            name: name.to_owned(),
            program: settings.binary(name)?,
            arguments: Vec::new(),
            environment,
            log_file: folder.log(name),
        })?;
        let ready_url = format!("http://{}/readyz", loopback(port));
        self.services.push(Running { process, ready_url, restarts: Restarts::default() });
        Ok(())
    }
}

/// At most five restarts of one process within a minute.
#[derive(Default)]
struct Restarts {
    recent: Vec<Instant>,
}

impl Restarts {
    /// Tells that `name` has ended and is started again, or fails when that was tried often enough.
    fn note(&mut self, name: &str, how: &str, log: &Path) -> Result<()> {
        self.recent.retain(|at| at.elapsed() < Duration::from_secs(60));
        self.recent.push(Instant::now());
        if self.recent.len() > 5 {
            bail!("{name} keeps ending ({how}):\n{}", tail(log));
        }
        say(&format!("{name} ended with {how}; starting it again"));
        Ok(())
    }
}

/// Runs a binary of the suite to its end, its output in a log.
async fn run_once(
    settings: &Settings,
    name: &str,
    arguments: &[&str],
    environment: &Environment,
    log_file: &Path,
) -> Result<()> {
    let what = format!("{name} {}", arguments.join(" "));
    let mut process = ServiceProcess::spawn(ServiceOptions {
        name: what.clone(),
        program: settings.binary(name)?,
        arguments: arguments.iter().map(|argument| (*argument).to_owned()).collect(),
        environment: environment.clone(),
        log_file: log_file.to_owned(),
    })?;
    match process.wait(COMMAND_BOUND).await? {
        Some(status) if status.success() => Ok(()),
        Some(status) => bail!("{what} ended with {}:\n{}", describe(status), process.tail()),
        None => bail!("{what} did not end within {COMMAND_BOUND:?}:\n{}", process.tail()),
    }
}

/// Runs the command line with our own output, for people to read; how it ended.
pub async fn run_in_front(settings: &Settings, arguments: &[&str], environment: &Environment) -> Result<ExitStatus> {
    const BOUND: Duration = Duration::from_secs(180);
    let mut command = Command::new(settings.binary("suite")?);
    command.args(arguments).stdin(Stdio::null()).envs(environment.iter().map(|(name, value)| (name, value)));
    let mut child = Child::spawn("suite", &mut command, Signal::SIGTERM)?;
    match child.wait(BOUND).await? {
        Some(status) => Ok(status),
        None => {
            child.kill().await?;
            bail!("suite {} did not end within {BOUND:?}", arguments.join(" "))
        }
    }
}

fn service_environment(
    settings: &Settings,
    service: &Service,
    kafka: &str,
    urls: &BTreeMap<&'static str, String>,
    data: &Path,
) -> Environment {
    let url = urls.get(service.key).cloned().unwrap_or_default();
    let mut environment = vec![
        ("HTTP_ADDR", loopback(settings.service_port(service))),
        ("DATABASE_URL", url),
        ("KAFKA_BOOTSTRAP", kafka.to_owned()),
    ];
    match service.key {
        "PAYMENT" => environment.push(("GATEWAY_URL", format!("http://{}", loopback(settings.port("GATEWAY_PORT"))))),
        "NOTIFICATION" if std::env::var_os("SMTP_URL").is_none() => {
            environment.push(("MAIL_DIR", data.join("mails").display().to_string()));
        }
        _ => {}
    }
    environment.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
}

/// What the command line needs to find this suite.
fn addresses(
    settings: &Settings,
    kafka: &str,
    urls: &BTreeMap<&'static str, String>,
    data: &Path,
    token: &str,
) -> Environment {
    let mut all =
        vec![("KAFKA_BOOTSTRAP".to_owned(), kafka.to_owned()), ("OPERATOR_TOKEN".to_owned(), token.to_owned())];
    for service in &SERVICES {
        all.push((format!("{}_URL", service.key), format!("http://{}", loopback(settings.service_port(service)))));
        all.push((format!("DATABASE_URL_{}", service.key), urls.get(service.key).cloned().unwrap_or_default()));
    }
    all.push(("GATEWAY_URL".to_owned(), format!("http://{}", loopback(settings.port("GATEWAY_PORT")))));
    if std::env::var_os("SMTP_URL").is_none() {
        all.push(("MAIL_DIR".to_owned(), data.join("mails").display().to_string()));
    }
    for name in ["TOPIC_PREFIX", "TOPICS_FILE", "MAIL_API_URL", "IDEMPOTENCY_TTL_SECS"] {
        all.extend(std::env::var(name).ok().map(|value| (name.to_owned(), value)));
    }
    all
}

/// The operators' word of this run: the environment's, else a new one.
fn operator_token() -> String {
    let given = std::env::var("OPERATOR_TOKEN").ok().filter(|token| !token.is_empty());
    given.unwrap_or_else(|| format!("{:032x}{:032x}", rand::random::<u128>(), rand::random::<u128>()))
}

/// For `./suite` and for people; it holds passwords.
fn write_stack_env(path: &Path, environment: &Environment) -> Result<()> {
    let quote = |value: &str| value.replace('\'', r"'\''");
    let lines: Vec<String> =
        environment.iter().map(|(name, value)| format!("export {name}='{}'\n", quote(value))).collect();
    write_private(path, &lines.concat())
}

fn loopback(port: u16) -> String {
    format!("127.0.0.1:{port}")
}

/// Tells the user; a closed pipe at the other end stops nothing.
pub fn say(line: &str) {
    use std::io::Write;
    let _ = writeln!(std::io::stdout().lock(), "{line}");
}
