//! `local-stack exec`: the command's world, its status, and that nothing outlives it.
#![allow(missing_docs)]

use std::io::{BufRead, BufReader};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

const BOUND: Duration = Duration::from_secs(60);

fn exec(script: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_local-stack"));
    command.args(["exec", "--bound-secs", "60", "--", "sh", "-c", script]);
    command
}

/// Starts `exec` on a command that prints its own process id and the folder of its Kafka, and then waits.
fn start_waiting() -> Result<(Child, i32, Vec<String>)> {
    let mut runner = exec("echo $$; exec sleep 300").stdout(Stdio::piped()).process_group(0).spawn()?;
    let mut line = String::new();
    BufReader::new(runner.stdout.take().context("no output")?).read_line(&mut line)?;
    let children = children_of(runner.id())?;
    ensure!(children.len() >= 4, "guard, Kafka, PostgreSQL and the command are expected: {children:?}");
    Ok((runner, line.trim().parse()?, children))
}

/// The folders in /proc of the processes whose parent is `pid`.
fn children_of(pid: u32) -> Result<Vec<String>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc")?.flatten() {
        let stat = std::fs::read_to_string(entry.path().join("stat")).unwrap_or_default();
        let parent = stat.rsplit_once(')').and_then(|(_, rest)| rest.split_whitespace().nth(1));
        if parent.is_some_and(|parent| parent == pid.to_string()) {
            found.push(entry.path().display().to_string());
        }
    }
    Ok(found)
}

fn runs(process: &str) -> bool {
    let status = std::fs::read_to_string(Path::new(process).join("status")).unwrap_or_default();
    !status.is_empty() && !status.lines().any(|line| line.starts_with("State:") && line.contains('Z'))
}

/// What a process is and what it is doing; `None` where it has ended.
fn seen(process: &str) -> Option<String> {
    let read = |name| std::fs::read_to_string(Path::new(process).join(name)).unwrap_or_default();
    let status = read("status");
    let of = |what: &str| status.lines().find(|line| line.starts_with(what)).unwrap_or_default().replace('\t', " ");
    let command = read("cmdline").replace('\0', " ");
    let about = [of("State:"), of("PPid:"), read("wchan"), command.chars().take(120).collect()];
    runs(process).then(|| format!("{process}: {}", about.join(", ")))
}

fn wait_until_gone(processes: &[String]) -> Result<()> {
    let start = Instant::now();
    while processes.iter().any(|process| runs(process)) {
        ensure!(
            start.elapsed() < BOUND,
            "still there: {:#?}",
            processes.iter().filter_map(|p| seen(p)).collect::<Vec<_>>()
        );
        std::thread::park_timeout(Duration::from_millis(20));
    }
    Ok(())
}

#[test]
fn the_command_gets_both_servers_and_its_status_is_ours() -> Result<()> {
    let output = exec("echo $TEST_KAFKA_BOOTSTRAP $TEST_DATABASE_URL; exit 7").output()?;
    assert_eq!(output.status.code(), Some(7));
    let said = String::from_utf8(output.stdout)?;
    let (kafka, postgres) = said.trim().split_once(' ').context(said.clone())?;
    assert!(kafka.starts_with("127.0.0.1:") && postgres.starts_with("postgres://postgres:"), "{said}");
    Ok(())
}

#[test]
#[cfg(target_os = "linux")]
fn nothing_outlives_a_runner_that_is_killed() -> Result<()> {
    let (mut runner, command, children) = start_waiting()?;
    assert!(runs(&format!("/proc/{command}")));
    runner.kill()?;
    runner.wait()?;
    wait_until_gone(&children)
}

#[test]
#[cfg(target_os = "linux")]
fn a_request_to_stop_ends_the_command_and_the_servers() -> Result<()> {
    let (mut runner, _, children) = start_waiting()?;
    kill(Pid::from_raw(i32::try_from(runner.id())?), Signal::SIGTERM)?;
    let status = runner.wait()?;
    assert_eq!(status.code(), Some(128 + 15));
    wait_until_gone(&children)
}
