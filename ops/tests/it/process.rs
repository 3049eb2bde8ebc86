//! The program itself: exit statuses, and where its words go.

use std::process::{Command, Output, Stdio};

use anyhow::Result;

fn suite(words: &[&str]) -> Result<Output> {
    Ok(Command::new(env!("CARGO_BIN_EXE_suite")).args(words).stdin(Stdio::null()).output()?)
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn words_that_can_not_be_understood_end_with_2() -> Result<()> {
    for words in [&["place", "--quantity", "many"][..], &["watch"], &["watch", "no-id"], &["dance"], &[]] {
        let output = suite(words)?;
        assert_eq!(output.status.code(), Some(2), "{words:?}");
        assert!(output.stdout.is_empty() && text(&output.stderr).contains("help"), "{words:?}: {output:?}");
    }
    Ok(())
}

#[test]
fn a_failure_ends_with_1_and_is_told_on_stderr_without_colours() -> Result<()> {
    let nobody = format!("http://127.0.0.1:{}", testkit::free_port()?);
    let output = suite(&["place", "--order-url", &nobody])?;
    assert_eq!((output.status.code(), text(&output.stdout)), (Some(1), String::new()));
    let err = text(&output.stderr);
    assert!(err.starts_with("error: order-service at ") && err.contains("make run"), "{err}");
    Ok(())
}

#[test]
fn every_command_has_its_help() -> Result<()> {
    for words in [
        &["--help"][..],
        &["place", "--help"],
        &["watch", "--help"],
        &["dlt", "list", "--help"],
        &["dlt", "show", "--help"],
        &["topics", "apply", "--help"],
        &["topics", "list", "--help"],
    ] {
        let output = suite(words)?;
        assert_eq!(output.status.code(), Some(0), "{words:?}");
        assert!(text(&output.stdout).contains("Usage: suite"), "{words:?}");
    }
    Ok(())
}
