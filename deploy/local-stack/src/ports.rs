//! TCP ports on loopback: reserving free ones, and naming who holds a taken one.

use std::collections::HashSet;
use std::fs::File;
use std::net::{Ipv4Addr, TcpListener};
use std::path::Path;
use std::sync::Mutex;

use anyhow::{Context, Result, bail};

/// Below every usual ephemeral range, so that no outgoing connection takes a reserved port before its server does.
const RANGE: std::ops::Range<u16> = 18_000..30_000;
const ATTEMPTS: usize = 1000;

/// Locks of the ports given out; held until this process ends.
static RESERVED: Mutex<Vec<File>> = Mutex::new(Vec::new());

/// A free port on 127.0.0.1, reserved for this process: no other caller of this function, in whatever process of this
/// user, is given it while this process lives. So a server may be stopped and started again on its port.
///
/// # Errors
/// When no free port is found.
pub fn free_port() -> Result<u16> {
    let folder = std::env::temp_dir().join(format!("order-suite-ports-{}", nix::unistd::Uid::effective()));
    std::fs::create_dir_all(&folder).with_context(|| format!("making {}", folder.display()))?;
    for _ in 0..ATTEMPTS {
        let port = rand::random_range(RANGE);
        let lock = File::create(folder.join(port.to_string())).context("making a port's lock file")?;
        if lock.try_lock().is_err() || !is_free(port) {
            continue;
        }
        RESERVED.lock().map_err(|_| anyhow::anyhow!("the list of ports is poisoned"))?.push(lock);
        return Ok(port);
    }
    bail!("no free port between {} and {}", RANGE.start, RANGE.end)
}

/// Whether a server could listen on `port` of 127.0.0.1 now.
pub fn is_free(port: u16) -> bool {
    TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok()
}

/// Who listens on `port`, as far as this account may see: "pid 4711 (nginx: master process)".
///
/// It reads /proc, so elsewhere than on Linux the answer is that it cannot be told.
pub fn who_holds(port: u16) -> String {
    let mut owners = HashSet::new();
    let mut sockets = HashSet::new();
    for table in ["/proc/net/tcp", "/proc/net/tcp6"] {
        for (uid, inode) in listeners(&std::fs::read_to_string(table).unwrap_or_default(), port) {
            owners.insert(uid);
            sockets.insert(format!("socket:[{inode}]"));
        }
    }
    let holders = processes_with(&sockets);
    match (holders.is_empty(), owners.iter().next()) {
        (false, _) => holders.join(", "),
        (true, Some(uid)) => {
            format!("a process of user id {uid} that this account may not look at")
        }
        (true, None) => "a process that cannot be told from here".to_owned(),
    }
}

/// (user id, socket inode) of every listener on `port` in the text of /proc/net/tcp.
fn listeners(table: &str, port: u16) -> Vec<(String, String)> {
    const LISTEN: &str = "0A";
    let wanted = format!("{port:04X}");
    let row = |line: &str| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let (_, local_port) = fields.get(1)?.rsplit_once(':')?;
        (local_port == wanted && *fields.get(3)? == LISTEN)
            .then(|| Some(((*fields.get(7)?).to_owned(), (*fields.get(9)?).to_owned())))?
    };
    table.lines().skip(1).filter_map(row).collect()
}

fn processes_with(sockets: &HashSet<String>) -> Vec<String> {
    let Ok(processes) = std::fs::read_dir("/proc") else {
        return Vec::new();
    };
    let mut found = Vec::new();
    for process in processes.flatten() {
        let Some(pid) = process.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else {
            continue;
        };
        if holds_one(&process.path(), sockets) {
            found.push(format!("pid {pid} ({})", command_line(&process.path())));
        }
    }
    found
}

fn holds_one(process: &Path, sockets: &HashSet<String>) -> bool {
    let Ok(files) = std::fs::read_dir(process.join("fd")) else {
        return false;
    };
    files
        .flatten()
        .filter_map(|file| std::fs::read_link(file.path()).ok())
        .any(|target| target.to_str().is_some_and(|target| sockets.contains(target)))
}

fn command_line(process: &Path) -> String {
    const SHOWN: usize = 80;
    let raw = std::fs::read(process.join("cmdline")).unwrap_or_default();
    let words: Vec<String> = raw
        .split(|byte| *byte == 0)
        .filter(|word| !word.is_empty())
        .map(|word| String::from_utf8_lossy(word).into_owned())
        .collect();
    let mut text: String = words.join(" ").chars().take(SHOWN).collect();
    if text.is_empty() {
        text = std::fs::read_to_string(process.join("comm")).unwrap_or_default().trim().to_owned();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_reservations_never_name_the_same_port() -> Result<()> {
        let ports: Vec<u16> = (0..50).map(|_| free_port()).collect::<Result<_>>()?;
        let distinct: HashSet<u16> = ports.iter().copied().collect();
        assert_eq!(distinct.len(), ports.len());
        Ok(())
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn a_taken_port_is_named_with_the_process_that_holds_it() -> Result<()> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let port = listener.local_addr()?.port();
        assert!(!is_free(port));
        let holder = who_holds(port);
        assert!(holder.contains(&format!("pid {}", std::process::id())), "{holder}");
        Ok(())
    }

    #[test]
    fn only_listeners_on_the_port_count() {
        let table = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n\
            0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000  1000        0 4711 1\n\
            1: 0100007F:1F90 0100007F:C000 01 00000000:00000000 00:00000000 00000000  1000        0 4712 1\n\
            2: 0100007F:1F91 00000000:0000 0A 00000000:00000000 00:00000000 00000000  1000        0 4713 1\n";
        assert_eq!(listeners(table, 8080), vec![("1000".to_owned(), "4711".to_owned())]);
    }
}
