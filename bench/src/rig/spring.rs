//! The same services as they are written with Spring (`bench/spring`), as processes that use the suite's tables and topics.

use std::convert::Infallible;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use local_stack::artifacts::java;
use local_stack::{ServiceOptions, ServiceProcess, free_port};

use super::{Service, Suite};

/// How long one may take to be ready, and to stop.
const BOUND: Duration = Duration::from_secs(60);

/// The largest heap of each.
pub const HEAP_MB: u32 = 512;

/// The statuses that a JVM ends with after SIGTERM: 128 + 15.
const ENDED_BY_SIGTERM: i32 = 143;

/// Which service, and how it is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Written {
    /// order-service's POST, a transaction for each request.
    Post,
    /// inventory-service's consumer, a transaction for each record, with so many threads.
    OneByOne(usize),
    /// inventory-service's consumer, a transaction for each poll, with so many threads.
    Batches(usize),
}

impl Written {
    fn service(self) -> Service {
        match self {
            Self::Post => Service::Order,
            Self::OneByOne(_) | Self::Batches(_) => Service::Inventory,
        }
    }

    fn profiles(self) -> &'static str {
        match self {
            Self::Post => "orders",
            Self::OneByOne(_) => "inventory,record",
            Self::Batches(_) => "inventory,batch",
        }
    }

    fn threads(self) -> usize {
        match self {
            Self::Post => 1,
            Self::OneByOne(threads) | Self::Batches(threads) => threads,
        }
    }
}

/// The program, built.
#[derive(Debug)]
pub struct Spring {
    jar: PathBuf,
}

impl Spring {
    /// Builds it with Maven.
    ///
    /// # Errors
    /// When Maven or a Java compiler is missing, or the build fails.
    pub async fn build() -> Result<Self> {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("spring");
        let mut command = Command::new("mvn");
        command.args(["--quiet", "--batch-mode", "--file"]).arg(folder.join("pom.xml")).arg("package");
        let output = tokio::task::spawn_blocking(move || command.output()).await?;
        let output = output.context("running mvn: Maven and a JDK (17 or later) are needed")?;
        let said = |bytes| String::from_utf8_lossy(bytes).into_owned();
        ensure!(output.status.success(), "mvn package:\n{}{}", said(&output.stdout), said(&output.stderr));
        Ok(Self { jar: folder.join("../../target/spring/bench-spring.jar") })
    }

    /// The version of the JVM that runs it, the first line of what it says.
    ///
    /// # Errors
    /// When there is none.
    pub fn jvm() -> Result<String> {
        let output = Command::new(java()).arg("-version").output().context("running java")?;
        let text = String::from_utf8_lossy(&output.stderr);
        Ok(text.lines().next().unwrap_or_default().replace('"', ""))
    }

    /// Starts it in place of a service of `home`, whose tables it uses and whose topics it writes; what it consumes is on
    /// `reads`.
    ///
    /// # Errors
    /// When it can't be started.
    pub fn spawn(&self, written: Written, home: &Suite, reads: &str) -> Result<SpringProcess> {
        let service = written.service();
        let (user, password, url) = jdbc(home.url(service))?;
        let port = free_port()?;
        let variables = [
            ("SPRING_PROFILES_ACTIVE", written.profiles().to_owned()),
            ("SPRING_DATASOURCE_URL", url),
            ("SPRING_DATASOURCE_USERNAME", user),
            ("SPRING_DATASOURCE_PASSWORD", password),
            ("SPRING_KAFKA_BOOTSTRAP_SERVERS", home.bootstrap().to_owned()),
            ("SERVER_ADDRESS", "127.0.0.1".to_owned()),
            ("SERVER_PORT", port.to_string()),
            ("SPRING_KAFKA_CONSUMER_GROUP_ID", format!("{}-spring", home.name)),
            ("BENCH_READS", reads.to_owned()),
            ("BENCH_EMITS", home.topic(service.emits())),
            ("BENCH_CONCURRENCY", written.threads().to_string()),
        ];
        let process = ServiceProcess::spawn(ServiceOptions {
            name: format!("Spring's {}", service.name()),
            program: java(),
            arguments: vec![format!("-Xmx{HEAP_MB}m"), "-jar".to_owned(), self.jar.display().to_string()],
            environment: variables.map(|(name, value)| (name.to_owned(), value)).to_vec(),
            log_file: home.folder().join(format!("spring-{}.log", service.name())),
        })?;
        Ok(SpringProcess { process, address: format!("127.0.0.1:{port}") })
    }
}

/// A running one; dropping it ends it.
#[derive(Debug)]
pub struct SpringProcess {
    process: ServiceProcess,
    /// Where it takes orders, `host:port`.
    pub address: String,
}

impl SpringProcess {
    /// Waits until it takes orders.
    ///
    /// # Errors
    /// When it does not within a minute.
    pub async fn wait_ready(&mut self) -> Result<()> {
        self.process.wait_ready(&format!("http://{}/readyz", self.address), BOUND).await
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// Waits for its end, which is a fault: in order it ends by [`SpringProcess::stop`].
    ///
    /// # Errors
    /// With the end of its log.
    pub async fn ends_by_itself(&mut self) -> Result<Infallible> {
        let ended = self.process.wait(Duration::MAX).await?;
        bail!("{} ended with {ended:?}:\n{}", self.process.name(), self.process.tail())
    }

    /// Stops it in order.
    ///
    /// # Errors
    /// When it ends in another way.
    pub async fn stop(mut self) -> Result<()> {
        let status = self.process.terminate(BOUND).await?;
        let in_order = status.success() || status.code() == Some(ENDED_BY_SIGTERM);
        ensure!(in_order, "{} ended with {status}:\n{}", self.process.name(), self.process.tail());
        Ok(())
    }
}

/// (user, password, address) for JDBC of `postgres://user:password@host:port/database`.
fn jdbc(url: &str) -> Result<(String, String, String)> {
    let parts = || {
        let (login, place) = url.split_once("://")?.1.split_once('@')?;
        let (user, password) = login.split_once(':')?;
        Some((user.to_owned(), password.to_owned(), format!("jdbc:postgresql://{place}")))
    };
    parts().context("a database's address without user and password")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_taken_apart_for_jdbc() {
        let (user, password, url) = jdbc("postgres://ada:secret@127.0.0.1:5432/b1_orders").expect("it is complete");
        assert_eq!((user.as_str(), password.as_str()), ("ada", "secret"));
        assert_eq!(url, "jdbc:postgresql://127.0.0.1:5432/b1_orders");
        assert!(jdbc("postgres://127.0.0.1/b1").is_err());
    }
}
