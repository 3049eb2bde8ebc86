//! The gateway as a process of its own.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};

use anyhow::{Context as _, Result};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// Ended with the test, however that ends.
struct Gateway {
    process: Child,
    addr: SocketAddr,
}

impl Gateway {
    /// Returns once its log says that it listens.
    fn start(ledger: &std::path::Path) -> Result<Self> {
        let addr = TcpListener::bind("127.0.0.1:0")?.local_addr()?;
        let mut process = Command::new(env!("CARGO_BIN_EXE_sandbox-gateway"))
            .env("HTTP_ADDR", addr.to_string())
            .env("LEDGER_FILE", ledger)
            .env("LOG_FORMAT", "json")
            .env_remove("RUST_LOG")
            .stdout(Stdio::piped())
            .spawn()?;
        let log = process.stdout.take().context("no log")?;
        let mut gateway = Self { process, addr };
        let mut lines = BufReader::new(log).lines();
        let listening = lines.by_ref().map_while(Result::ok).find(|line| line.contains("listens"));
        let line = listening.with_context(|| format!("it ended: {:?}", gateway.process.try_wait()))?;
        assert!(line.contains(r#""service.name":"sandbox-gateway""#), "{line}");
        // The pipe must be read to the end, or the gateway would block on it.
        std::thread::spawn(move || lines.for_each(drop));
        Ok(gateway)
    }

    fn authorize(&self, order_id: &str) -> Result<String> {
        let body =
            format!(r#"{{"order_id":"{order_id}","amount_minor":5,"currency":"EUR","payment_method":"tok_visa"}}"#);
        let mut connection = TcpStream::connect(self.addr)?;
        write!(
            connection,
            "POST /v1/authorizations HTTP/1.1\r\nhost: gateway\r\nconnection: close\r\nidempotency-key: {order_id}\r\n\
             content-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        )?;
        let mut answer = String::new();
        connection.read_to_string(&mut answer)?;
        Ok(answer.split("\r\n\r\n").nth(1).context("no body")?.to_owned())
    }

    fn healthcheck(&self) -> Result<bool> {
        let mut command = Command::new(env!("CARGO_BIN_EXE_sandbox-gateway"));
        let command = command.arg("healthcheck").env("HTTP_ADDR", self.addr.to_string()).stderr(Stdio::null());
        Ok(command.status()?.success())
    }

    fn end_with(&mut self, signal: Signal) -> Result<Option<i32>> {
        kill(Pid::from_raw(i32::try_from(self.process.id())?), signal)?;
        Ok(self.process.wait()?.code())
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

#[test]
fn it_ends_orderly_on_either_signal() -> Result<()> {
    let folder = tempfile::tempdir()?;
    for signal in [Signal::SIGTERM, Signal::SIGINT] {
        let mut gateway = Gateway::start(&folder.path().join("ledger.jsonl"))?;
        assert!(gateway.healthcheck()?);
        assert_eq!(gateway.end_with(signal)?, Some(0));
        assert!(!gateway.healthcheck()?);
    }
    Ok(())
}

#[test]
fn a_killed_gateway_still_knows_what_it_answered() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let ledger = folder.path().join("ledger.jsonl");
    let mut gateway = Gateway::start(&ledger)?;
    let answers: Vec<_> = ["o-1", "o-2"].into_iter().map(|order| gateway.authorize(order)).collect::<Result<_>>()?;
    assert_eq!(gateway.end_with(Signal::SIGKILL)?, None);

    let gateway = Gateway::start(&ledger)?;
    let again: Vec<_> = ["o-1", "o-2"].into_iter().map(|order| gateway.authorize(order)).collect::<Result<_>>()?;
    assert_eq!(again, answers);
    assert_eq!(std::fs::read_to_string(&ledger)?.lines().count(), 2);
    Ok(())
}
