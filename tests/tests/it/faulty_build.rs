//! The build with crash points and removable guards, and that the ordinary one has none of that.

use std::path::PathBuf;
use std::process::{Command, Output};

use anyhow::{Context, Result, ensure};
use system_tests::Service;
use testkit::{binary, faulty_binary};

/// What only fault injection reads or says.
const MARKERS: [&str; 4] = ["CRASH_AT", "REMOVE_GUARD", "FAULT-INJECTION BUILD", "offset-after-commit"];

fn markers_in(program: PathBuf) -> Result<Vec<&'static str>> {
    // A hundred megabytes each: what is made for it finds them in no time, an unoptimised test does not.
    let mut grep = Command::new("grep");
    grep.args(["--text", "--only-matching", "--fixed-strings"]);
    let output = grep.args(MARKERS.iter().flat_map(|marker| ["-e", marker])).arg(&program).output()?;
    // 0: some are found, 1: none is.
    ensure!(matches!(output.status.code(), Some(0 | 1)), "grep: {}", String::from_utf8_lossy(&output.stderr));
    let found = String::from_utf8_lossy(&output.stdout);
    Ok(MARKERS.into_iter().filter(|marker| found.lines().any(|line| line == *marker)).collect())
}

#[test]
fn the_ordinary_build_holds_nothing_of_fault_injection_and_the_faulty_one_all_of_it() -> Result<()> {
    for service in Service::ALL {
        let none = markers_in(binary(service.name())?)?;
        ensure!(none.is_empty(), "{} holds {none:?}", service.name());
        let all = markers_in(faulty_binary(service.name())?)?;
        ensure!(all == MARKERS, "the faulty {} holds only {all:?}: this test could not fail", service.name());
    }
    Ok(())
}

/// What a faulty service says to these variables, before it looks at anything else.
fn started(service: Service, variables: &[(&str, &str)]) -> Result<Output> {
    let mut command = Command::new(faulty_binary(service.name())?);
    command.env_clear().args(["migrate"]).envs(variables.iter().copied());
    // Nobody listens there.
    let nowhere = [
        ("HTTP_ADDR", "127.0.0.1:1"),
        ("DATABASE_URL", "postgres://nobody:secret@127.0.0.1:1/nothing"),
        ("DATABASE_WAIT_SECS", "0"),
        ("KAFKA_BOOTSTRAP", "127.0.0.1:1"),
        ("LOG_FORMAT", "text"),
    ];
    command.envs(nowhere).output().context("starting it")
}

#[test]
fn an_unknown_point_or_guard_is_refused_at_start_with_the_names_that_there_are() -> Result<()> {
    for (variable, value, known) in [
        ("CRASH_AT", "after-dinner", "before-call, after-call, before-claim"),
        ("CRASH_AT", "after-claim:0", "POINT:N, from 1"),
        ("REMOVE_GUARD", "all", "inbox-claim, held-key, ack-wait, delivery-ledger, offset-after-commit"),
    ] {
        let refused = started(Service::Inventory, &[(variable, value)])?;
        let said = String::from_utf8_lossy(&refused.stderr);
        assert_eq!(refused.status.code(), Some(2), "{said}");
        ensure!(said.contains(variable) && said.contains(value) && said.contains(known), "{said}");
    }
    Ok(())
}

#[test]
fn a_faulty_build_says_at_start_what_it_is() -> Result<()> {
    let output = started(Service::Payment, &[("CRASH_AT", "after-call:3"), ("RUST_LOG", "warn")])?;
    let said = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    for part in ["THIS IS A FAULT-INJECTION BUILD", "after-call", "none"] {
        ensure!(said.contains(part), "it says nothing of {part}: {said}");
    }
    Ok(())
}
