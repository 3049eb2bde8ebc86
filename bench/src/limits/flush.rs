//! What a flush costs, by PostgreSQL's own `pg_test_fsync`.

use std::path::Path;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use super::tools;

/// What was found.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Flush {
    /// Writing 8 KiB and `fdatasync`, in microseconds: what a commit waits for at the least.
    pub fdatasync_us: f64,
}

/// Measures it on the disk of `folder`.
///
/// # Errors
/// When the program is missing, or says something else than it used to.
pub async fn measure(folder: &Path) -> Result<Flush> {
    let file = folder.join("pg_test_fsync.out").display().to_string();
    let arguments = ["-s".to_owned(), "1".to_owned(), "-f".to_owned(), file];
    let said = tools::output(&tools::find("pg_test_fsync")?, &arguments, &[]).await?;
    parse(&said).with_context(|| format!("no time of fdatasync in:\n{said}"))
}

/// The first line of `fdatasync`: one 8 kB write.
fn parse(said: &str) -> Option<Flush> {
    let line = said.lines().find(|line| line.trim_start().starts_with("fdatasync"))?;
    let words: Vec<&str> = line.split_ascii_whitespace().collect();
    let unit = words.iter().position(|word| *word == "usecs/op")?;
    Some(Flush { fdatasync_us: words.get(unit.checked_sub(1)?)?.parse().ok()? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_of_the_first_fdatasync_is_read() {
        let said = "1 second per test\n\nCompare file sync methods using one 8kB write:\n        open_datasync  \
                    8000.1 ops/sec     125 usecs/op\n        fdatasync                          7936.508 ops/sec     \
                    126 usecs/op\n        fsync    1 ops/sec 2 usecs/op\n";
        assert_eq!(parse(said), Some(Flush { fdatasync_us: 126.0 }));
    }
}
