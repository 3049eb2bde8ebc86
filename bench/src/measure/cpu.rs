//! CPU seconds and memory of processes, from `/proc` (Linux only).

use std::collections::BTreeMap;
use std::fs;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

/// A process and its children.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProcessTree {
    /// What it is called in the report.
    pub name: String,
    /// Its root.
    pub pid: u32,
}

/// CPU seconds (user and system) by name.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct CpuSeconds(pub BTreeMap<String, f64>);

impl CpuSeconds {
    /// What was used up to now.
    ///
    /// # Errors
    /// When a process is gone.
    pub fn read(trees: &[ProcessTree]) -> Result<Self> {
        Self::of(trees, &stats()?)
    }

    /// Adds what was used in another span.
    pub fn add(&mut self, other: &Self) {
        for (name, seconds) in &other.0 {
            *self.0.entry(name.clone()).or_default() += seconds;
        }
    }

    /// A child that is a root itself is counted there only.
    fn of(trees: &[ProcessTree], all: &BTreeMap<u32, Stat>) -> Result<Self> {
        let mut seconds = BTreeMap::new();
        for tree in trees {
            let own = all.get(&tree.pid).with_context(|| format!("{} (pid {}) is gone", tree.name, tree.pid))?;
            let is_root = |pid: u32| trees.iter().any(|tree| tree.pid == pid);
            let children = all.iter().filter(|(pid, stat)| stat.parent == tree.pid && !is_root(**pid));
            // Children that ended are in the root's sum of waited-for children.
            let ticks = own.ticks + own.reaped_ticks + children.map(|(_, stat)| stat.ticks).sum::<u64>();
            #[expect(clippy::cast_precision_loss, reason = "ticks of a benchmark fit")]
            seconds.insert(tree.name.clone(), ticks as f64 / TICKS_PER_SECOND);
        }
        Ok(Self(seconds))
    }

    /// What was used since `before`.
    #[must_use]
    pub fn since(&self, before: &Self) -> Self {
        let zero = 0.0;
        let used = self.0.iter().map(|(name, now)| (name.clone(), now - before.0.get(name).unwrap_or(&zero)));
        Self(used.collect())
    }

    /// Of all of them.
    pub fn total(&self) -> f64 {
        self.0.values().sum()
    }

    /// Divided by a count, in seconds per 1,000.
    #[must_use]
    pub fn per_thousand(&self, count: usize) -> Self {
        #[expect(clippy::cast_precision_loss, reason = "counts of a benchmark fit")]
        let thousands = count as f64 / 1_000.0;
        Self(self.0.iter().map(|(name, seconds)| (name.clone(), seconds / thousands)).collect())
    }
}

/// `USER_HZ`, which Linux fixes at 100 for every architecture that this runs on.
const TICKS_PER_SECOND: f64 = 100.0;

struct Stat {
    parent: u32,
    ticks: u64,
    reaped_ticks: u64,
}

fn stats() -> Result<BTreeMap<u32, Stat>> {
    let mut all = BTreeMap::new();
    for entry in fs::read_dir("/proc")? {
        let name = entry?.file_name();
        let Some(pid) = name.to_str().and_then(|name| name.parse().ok()) else { continue };
        // A process that ended meanwhile is not a failure.
        let Ok(text) = fs::read_to_string(format!("/proc/{pid}/stat")) else { continue };
        if let Some(stat) = parse(&text) {
            all.insert(pid, stat);
        }
    }
    Ok(all)
}

/// proc(5): the fields after the last `)`, counted from 3 (state): 4 ppid, 14 utime, 15 stime, 16 cutime, 17 cstime.
fn parse(text: &str) -> Option<Stat> {
    let fields: Vec<&str> = text.rsplit_once(')')?.1.split_ascii_whitespace().collect();
    let number = |field: usize| fields.get(field - 3)?.parse::<u64>().ok();
    Some(Stat {
        parent: u32::try_from(number(4)?).ok()?,
        ticks: number(14)? + number(15)?,
        reaped_ticks: number(16)? + number(17)?,
    })
}

/// The resident memory of processes together, in MB (10^6 bytes).
///
/// # Errors
/// When one is gone.
pub fn resident_mb(pids: impl IntoIterator<Item = u32>) -> Result<f64> {
    let bytes = pids.into_iter().map(resident_bytes).sum::<Result<u64>>()?;
    #[expect(clippy::cast_precision_loss, reason = "memory in bytes fits")]
    Ok(bytes as f64 / 1e6)
}

/// The resident memory of a process, in bytes.
fn resident_bytes(pid: u32) -> Result<u64> {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).with_context(|| format!("pid {pid} is gone"))?;
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
    let kib: u64 = line.trim().trim_end_matches(" kB").trim().parse()?;
    Ok(kib * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_spaces_and_brackets_does_not_shift_the_fields() {
        let text = "42 (a) b (c) S 7 42 42 0 -1 4194304 1 2 3 4 11 22 33 44 20 0 1 0 5 6 7";
        let stat = parse(text).expect("it is well-formed");
        assert_eq!((stat.parent, stat.ticks, stat.reaped_ticks), (7, 33, 77));
    }

    #[test]
    fn what_the_load_started_is_not_counted_as_the_load() {
        let stat = |parent, ticks| Stat { parent, ticks, reaped_ticks: 0 };
        let all = BTreeMap::from([(1, stat(0, 100)), (2, stat(1, 200)), (3, stat(2, 400)), (4, stat(1, 800))]);
        let tree = |name: &str, pid| ProcessTree { name: name.to_owned(), pid };
        let used = CpuSeconds::of(&[tree("load", 1), tree("postgres", 2)], &all).expect("all of them live");
        assert_eq!(used.0, BTreeMap::from([("load".to_owned(), 9.0), ("postgres".to_owned(), 6.0)]));
    }

    #[test]
    fn this_process_has_memory() {
        assert!(resident_bytes(std::process::id()).expect("it lives") > 100_000);
    }
}
