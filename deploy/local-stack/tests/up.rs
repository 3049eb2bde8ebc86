//! `local-stack up` with the real services: they must be built (`cargo build --workspace --bins`; `make test` does).
#![allow(missing_docs)]

use std::io::{BufRead, BufReader, Lines};
use std::process::{Child, ChildStdout, Command, Stdio};

use anyhow::{Context, Result, ensure};
use local_stack::{Scratch, free_port};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

const PORTS: [&str; 8] = [
    "ORDER_PORT",
    "PAYMENT_PORT",
    "INVENTORY_PORT",
    "NOTIFICATION_PORT",
    "GATEWAY_PORT",
    "KAFKA_PORT",
    "KAFKA_CONTROLLER_PORT",
    "POSTGRES_PORT",
];

struct Up {
    process: Child,
    output: Lines<BufReader<ChildStdout>>,
}

impl Up {
    fn start(folder: &Scratch, flags: &[&str]) -> Result<Self> {
        let mut command = Command::new(env!("CARGO_BIN_EXE_local-stack"));
        command.arg("up").args(flags).env("DATA_DIR", folder.path().join("data"));
        for name in ["KAFKA_BOOTSTRAP", "TOPIC_PREFIX", "SMTP_URL"] {
            command.env_remove(name);
        }
        for name in PORTS {
            command.env(name, free_port()?.to_string());
        }
        let mut process = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn()?;
        let output = process.stdout.take().context("no output")?;
        Ok(Self { process, output: BufReader::new(output).lines() })
    }

    /// Reads on until a line holds `text`; what was read.
    fn read_until(&mut self, text: &str) -> Result<Vec<String>> {
        let mut read = Vec::new();
        for line in self.output.by_ref() {
            read.push(line?);
            if read.last().is_some_and(|line| line.contains(text)) {
                return Ok(read);
            }
        }
        anyhow::bail!("it ended without saying {text:?}:\n{}", read.join("\n"))
    }

    fn rest(mut self) -> Result<(Option<i32>, Vec<String>)> {
        let read = self.output.by_ref().collect::<std::io::Result<Vec<_>>>()?;
        Ok((self.process.wait()?.code(), read))
    }
}

impl Drop for Up {
    fn drop(&mut self) {
        // After a failed assertion: the guard stops what it leaves.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn place_of(lines: &[String], text: &str) -> Result<usize> {
    lines.iter().position(|line| line.contains(text)).with_context(|| format!("no {text:?} in\n{}", lines.join("\n")))
}

#[test]
fn the_sample_order_is_confirmed_the_stop_is_orderly_and_the_data_survives_it() -> Result<()> {
    let folder = Scratch::new("test")?;
    let mut first = Up::start(&folder, &[])?;
    let started = first.read_until("Running.")?;
    place_of(&started, "Order confirmed")?;
    kill(Pid::from_raw(i32::try_from(first.process.id())?), Signal::SIGTERM)?;
    let (status, stopped) = first.rest()?;
    assert_eq!(status, Some(0));
    let gateway = place_of(&stopped, "sandbox-gateway stopped")?;
    for service in ["order-service", "payment-service", "inventory-service", "notification-service"] {
        // Only an orderly end is told without a status.
        let line = stopped.iter().position(|line| *line == format!("{service} stopped"));
        ensure!(line.context(service)? < gateway, "{stopped:?}");
    }
    ensure!(gateway < place_of(&stopped, "Kafka stopped")?, "{stopped:?}");
    ensure!(place_of(&stopped, "Kafka stopped")? < place_of(&stopped, "PostgreSQL stopped")?, "{stopped:?}");

    let (status, again) = Up::start(&folder, &["--once"])?.rest()?;
    assert_eq!(status, Some(0), "{again:?}");
    place_of(&again, "Order confirmed")?;
    let ledger = std::fs::read_to_string(folder.path().join("data/gateway/ledger.jsonl"))?;
    assert_eq!(ledger.lines().filter(|line| line.contains("capture")).count(), 2, "{ledger}");
    Ok(())
}
