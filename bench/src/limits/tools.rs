//! Programs of PostgreSQL's own that Debian packages.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

/// Where Debian's `postgresql-NN` and the PATH have it, newest first.
pub(super) fn find(name: &str) -> Result<PathBuf> {
    let versions = std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let mut found: Vec<PathBuf> = versions.map(|version| version.path().join("bin").join(name)).collect();
    found.sort();
    let path = std::env::var_os("PATH").unwrap_or_default();
    found.splice(0..0, std::env::split_paths(&path).map(|folder| folder.join(name)));
    let usable = found.into_iter().rev().find(|path| path.is_file());
    usable.with_context(|| {
        format!("{name} is missing; Debian and Ubuntu: apt-get install postgresql (see bench/README.md)")
    })
}

/// Runs one; its output.
pub(super) async fn output(program: &Path, arguments: &[String], environment: &[(&str, String)]) -> Result<String> {
    let mut command = Command::new(program);
    command.args(arguments).envs(environment.iter().map(|(name, value)| (name, value)));
    let output = tokio::task::spawn_blocking(move || command.output()).await?;
    let output = output.with_context(|| format!("running {}", program.display()))?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let complaints = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{} ended with {}:\n{text}{complaints}", program.display(), output.status);
    Ok(text)
}
