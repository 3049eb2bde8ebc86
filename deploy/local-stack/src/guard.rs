//! The watchdog: stops what this process started when this process is gone, however it went (SIGKILL included).
//!
//! It is a shell that reads commands from a pipe which only this process holds. While we live it learns which process
//! groups to watch; when the pipe closes it stops those that are left, newest first, and removes throw-away folders.
//! It needs no `unsafe`, no Linux-only call and no second binary, so that tests and tools are guarded alike.

use std::io::Write;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{ChildStdin, Command, Stdio};
use std::sync::Mutex;

use anyhow::{Context, Result, bail};
use nix::sys::signal::Signal;

/// The guard's pipe; the first use starts it, and the end of the process closes it.
static PIPE: Mutex<Option<ChildStdin>> = Mutex::new(None);

/// Each group gets its own signal and about 5 s to go, then SIGKILL.
const SCRIPT: &str = r#"
trap '' INT TERM HUP
groups=''
set --
while read -r verb first second; do
  case $verb in
    watch) groups="$first:$second $groups" ;;
    forget)
      left=''
      for entry in $groups; do
        [ "${entry#*:}" = "$first" ] || left="$left $entry"
      done
      groups=$left ;;
    remove) set -- "$@" "$first${second:+ $second}" ;;
  esac
done
for entry in $groups; do
  group=${entry#*:}
  kill -s "${entry%%:*}" -- "-$group" 2>/dev/null || continue
  kill -s CONT -- "-$group" 2>/dev/null
  rounds=0
  # Where nobody reaps orphans (a container without an init), an ended leader stays as a zombie.
  while [ $rounds -lt 50 ] && kill -s 0 -- "-$group" 2>/dev/null \
    && ! grep -qs '^State:[[:space:]]*Z' "/proc/$group/status"; do
    rounds=$((rounds + 1))
    sleep 0.1
  done
  kill -s KILL -- "-$group" 2>/dev/null
done
for folder in "$@"; do rm -rf -- "$folder"; done
"#;

/// Stops `group` with `signal` when this process dies.
///
/// # Errors
/// When no shell can be started.
pub fn watch(group: i32, signal: Signal) -> Result<()> {
    let name = signal.as_str().trim_start_matches("SIG");
    tell(&format!("watch {name} {group}\n"))
}

/// Says that `group` has ended and that its number may soon be somebody else's.
pub fn forget(group: i32) {
    // A guard that cannot be told is gone itself, and then it watches nothing.
    let _ = tell(&format!("forget {group}\n"));
}

/// Removes `folder` when this process ends, in whatever way.
///
/// # Errors
/// When the path is not absolute or holds a line break, or no shell can be started.
pub fn remove_at_end(folder: &Path) -> Result<()> {
    let text = folder.to_str().context("the folder's name is not UTF-8")?;
    if !folder.is_absolute() || text.contains('\n') {
        bail!("{text:?} cannot be named to the guard");
    }
    tell(&format!("remove {text}\n"))
}

fn tell(line: &str) -> Result<()> {
    let mut pipe = PIPE.lock().map_err(|_| anyhow::anyhow!("the guard's lock is poisoned"))?;
    if pipe.is_none() {
        *pipe = Some(start()?);
    }
    let Some(stdin) = pipe.as_mut() else { bail!("the guard was not started") };
    stdin.write_all(line.as_bytes()).context("the guard that stops child processes is gone")
}

fn start() -> Result<ChildStdin> {
    let mut child = Command::new("/bin/sh")
        .args(["-c", SCRIPT, "order-suite-guard"])
        .current_dir("/")
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        // A group of its own: Ctrl-C in the terminal must not reach it before the pipe closes.
        .process_group(0)
        .spawn()
        .context("starting /bin/sh as the guard of child processes")?;
    child.stdin.take().context("the guard has no pipe")
}
