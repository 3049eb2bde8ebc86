//! The command line of a whole service: the example `minimal`.

use std::net::{SocketAddr, TcpListener};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::time::Duration;

use anyhow::{Result, ensure};
use service::http::probe;
use testkit::{Cluster, TestDatabase, binary, eventually};

const BOUND: Duration = Duration::from_secs(30);

struct Minimal {
    addr: SocketAddr,
    database: TestDatabase,
}

impl Minimal {
    async fn new() -> Result<Self> {
        let addr = TcpListener::bind("127.0.0.1:0")?.local_addr()?;
        Ok(Self { addr, database: Cluster::shared().await?.database("minimal").await? })
    }

    fn command(&self, arguments: &[&str]) -> Result<Command> {
        let mut command = Command::new(binary("examples/minimal")?);
        command
            .args(arguments)
            .env_clear()
            .env("HTTP_ADDR", self.addr.to_string())
            .env("DATABASE_URL", &self.database.url)
            .env("KAFKA_BOOTSTRAP", "127.0.0.1:9092")
            .env("GREETING", "hello")
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        Ok(command)
    }

    fn run(&self, arguments: &[&str]) -> Result<Output> {
        Ok(self.command(arguments)?.output()?)
    }
}

/// Killed if the test ends first.
struct Process(Child);

impl Process {
    fn end_with(mut self, signal: &str) -> Result<ExitStatus> {
        ensure!(Command::new("kill").args([signal, &self.0.id().to_string()]).status()?.success(), "no such process");
        Ok(self.0.wait()?)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[tokio::test]
async fn a_service_serves_until_it_is_told_to_stop() -> Result<()> {
    for signal in ["-TERM", "-INT"] {
        let minimal = Minimal::new().await?;
        let process = Process(minimal.command(&[])?.spawn()?);
        eventually("it is ready", BOUND, async || {
            let status = probe(minimal.addr, "/readyz", BOUND).await?;
            ensure!(status == 200, "it answers {status}");
            Ok(())
        })
        .await?;
        assert!(minimal.run(&["healthcheck"])?.status.success());
        assert_eq!(probe(minimal.addr, "/greeting", BOUND).await?, 200);
        assert_eq!(process.end_with(signal)?.code(), Some(0));
        assert_eq!(minimal.run(&["healthcheck"])?.status.code(), Some(1));
    }
    Ok(())
}

#[tokio::test]
async fn migrate_ends_by_itself_and_logs_json_without_secrets() -> Result<()> {
    let minimal = Minimal::new().await?;
    let output = minimal.run(&["migrate"])?;
    assert!(output.status.success());
    let log = String::from_utf8(output.stdout)?;
    assert!(log.lines().count() >= 2, "{log}");
    for line in log.lines() {
        let line: serde_json::Value = serde_json::from_str(line)?;
        assert_eq!(line["service.name"], "minimal");
    }
    Ok(())
}

#[tokio::test]
async fn a_setting_that_is_missing_is_named_and_ends_with_status_2() -> Result<()> {
    let minimal = Minimal::new().await?;
    for variable in ["HTTP_ADDR", "DATABASE_URL", "KAFKA_BOOTSTRAP", "GREETING"] {
        let output = minimal.command(&["serve"])?.env_remove(variable).output()?;
        assert_eq!(output.status.code(), Some(2), "{variable}");
        assert!(String::from_utf8(output.stderr)?.contains(&format!("minimal: {variable} is not set")));
    }
    Ok(())
}

#[tokio::test]
async fn an_address_in_use_ends_with_status_1_and_its_reason() -> Result<()> {
    let minimal = Minimal::new().await?;
    let _taken = TcpListener::bind(minimal.addr)?;
    let output = minimal.run(&[])?;
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8(output.stderr)?.contains("in use"));
    Ok(())
}
