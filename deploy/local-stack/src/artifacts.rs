//! The programs themselves: Apache Kafka's jars and PostgreSQL's binaries, fetched by Maven once and kept in a cache.
//!
//! The cache is keyed by version and filled atomically: everything is fetched and unpacked beside it under a file
//! lock and then renamed, so a run that is cut short leaves nothing half done and parallel runs wait for each other.

use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use nix::sys::signal::Signal;
use nix::unistd::Uid;

use crate::account::create_open_folder;
use crate::child::Child;
use crate::guard;

/// Apache Kafka's version, as in pom.xml.
pub const KAFKA_VERSION: &str = "4.3.0";
/// The PostgreSQL binaries' version, as in pom.xml.
pub const POSTGRES_VERSION: &str = "18.6.0";
const POM: &str = include_str!("../pom.xml");
/// How much of Maven's output is shown when it fails.
const LINES_SHOWN: usize = 15;

/// Where the fetched programs are.
#[derive(Clone, Debug)]
pub struct Artifacts {
    /// The folder with Kafka's jars.
    pub kafka_libs: PathBuf,
    /// The folder with PostgreSQL's `bin`, `lib` and `share`.
    pub postgres_home: PathBuf,
}

impl Artifacts {
    /// Fetches what the cache lacks, showing its progress on standard error.
    ///
    /// # Errors
    /// When Maven is missing or fails, or the cache cannot be written.
    pub async fn ensure() -> Result<Self> {
        tokio::task::spawn_blocking(|| Self::ensure_in(&std::path::absolute(cache_folder()?)?))
            .await
            .context("fetching Kafka and PostgreSQL")?
    }

    fn ensure_in(cache: &Path) -> Result<Self> {
        let platform = platform()?;
        let home = cache.join(format!("kafka-{KAFKA_VERSION}_postgres-{POSTGRES_VERSION}_{platform}"));
        let found = Self { kafka_libs: home.join("kafka"), postgres_home: home.join("postgres") };
        if home.is_dir() {
            return Ok(found);
        }
        create_open_folder(cache)?;
        let lock_path = cache.join("lock");
        let lock = File::create(&lock_path).with_context(|| format!("making {}", lock_path.display()))?;
        lock.lock().with_context(|| format!("locking {}", lock_path.display()))?;
        if home.is_dir() {
            return Ok(found);
        }
        let staging =
            tempfile::Builder::new().prefix(".fetch-").tempdir_in(cache).context("making a folder in the cache")?;
        guard::remove_at_end(staging.path())?;
        fetch(staging.path(), platform)?;
        std::fs::rename(staging.path().join("home"), &home).with_context(|| format!("filling {}", home.display()))?;
        Ok(found)
    }
}

/// The Java launcher: `$JAVA_HOME/bin/java`, else the one on the path.
pub fn java() -> PathBuf {
    match std::env::var_os("JAVA_HOME") {
        Some(home) if !home.is_empty() => Path::new(&home).join("bin/java"),
        _ => PathBuf::from("java"),
    }
}

/// `ORDER_SUITE_CACHE`, else `/var/cache/order-suite` for root (PostgreSQL's own account must be able to read it),
/// else `order-suite` in the user's cache folder.
fn cache_folder() -> Result<PathBuf> {
    let variable = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    if let Some(folder) = variable("ORDER_SUITE_CACHE") {
        return Ok(folder);
    }
    if Uid::effective().is_root() {
        return Ok(PathBuf::from("/var/cache/order-suite"));
    }
    let base = variable("XDG_CACHE_HOME").or_else(|| variable("HOME").map(|home| home.join(".cache")));
    Ok(base.context("neither XDG_CACHE_HOME nor HOME is set, so there is no cache folder")?.join("order-suite"))
}

/// The classifier in the name of the PostgreSQL artifact.
fn platform() -> Result<&'static str> {
    Ok(match (std::env::consts::OS, std::env::consts::ARCH) {
        ("linux", "x86_64") => "linux-amd64",
        ("linux", "aarch64") => "linux-arm64v8",
        ("macos", "x86_64") => "darwin-amd64",
        ("macos", "aarch64") => "darwin-arm64v8",
        (os, arch) => bail!("no PostgreSQL binaries are published for {os} on {arch}: set DATABASE_URL_* instead"),
    })
}

/// Leaves a complete `home` in `staging`.
fn fetch(staging: &Path, platform: &str) -> Result<()> {
    eprintln!("Fetching Apache Kafka {KAFKA_VERSION} and PostgreSQL {POSTGRES_VERSION} by Maven (70 MB, once)");
    std::fs::write(staging.join("pom.xml"), POM)?;
    let libs = staging.join("home/kafka");
    run_maven(staging, &libs, platform)?;
    let jar = libs.join(format!("embedded-postgres-binaries-{platform}-{POSTGRES_VERSION}.jar"));
    let postgres = staging.join("home/postgres");
    eprintln!("Unpacking PostgreSQL");
    unpack_postgres(&jar, &postgres).with_context(|| format!("unpacking {}", jar.display()))?;
    std::fs::remove_file(&jar)?;
    open_to_all(&staging.join("home"))
}

fn run_maven(staging: &Path, libs: &Path, platform: &str) -> Result<()> {
    let mut command = Command::new("mvn");
    command
        .current_dir(staging)
        .args(["-B", "-Dstyle.color=never", "--strict-checksums", "dependency:copy-dependencies"])
        .arg(format!("-DoutputDirectory={}", libs.display()))
        .arg(format!("-Dpostgres.platform={platform}"))
        .stdin(Stdio::null())
        .stdout(Stdio::piped());
    let mut maven = Child::spawn("Maven", &mut command, Signal::SIGTERM)
        .context("is Maven installed? deploy/bootstrap.sh says how")?;
    let output = maven.take_stdout().context("Maven has no output")?;
    let mut last = std::collections::VecDeque::with_capacity(LINES_SHOWN);
    for line in BufReader::new(output).lines() {
        let line = line.context("reading Maven's output")?;
        if let Some(what) = jar_of(&line) {
            eprintln!("  {what}");
        }
        if last.len() == LINES_SHOWN {
            last.pop_front();
        }
        last.push_back(line);
    }
    // Its output has ended, so it is about to.
    let status = maven.join()?;
    if !status.success() {
        let shown: Vec<String> = last.into();
        bail!("Maven could not fetch Kafka and PostgreSQL:\n{}", shown.join("\n"));
    }
    Ok(())
}

/// "name.jar (size at speed)" of a line that tells of a finished download.
fn jar_of(line: &str) -> Option<&str> {
    let rest = line.strip_prefix("[INFO] Downloaded from ")?;
    let end = rest.find(".jar (")?;
    Some(&rest[rest[..end].rfind('/')? + 1..])
}

/// The jar holds one `.txz` for its platform.
fn unpack_postgres(jar: &Path, target: &Path) -> Result<()> {
    let mut archive = zip::ZipArchive::new(File::open(jar)?)?;
    let names = archive.file_names().collect::<Result<Vec<_>, _>>()?;
    let name = names.iter().find(|name| name.ends_with(".txz")).context("the jar holds no .txz")?.clone().into_owned();
    let packed = archive.by_name(&name)?;
    let mut unpacked = lzma_rust2::XzReader::new(packed, false);
    std::fs::create_dir_all(target)?;
    let mut tar = tar::Archive::new(&mut unpacked);
    tar.set_preserve_permissions(true);
    tar.unpack(target)?;
    std::io::copy(&mut unpacked.by_ref(), &mut std::io::sink())?;
    Ok(())
}

/// Readable for every account, whatever the umask: as root, PostgreSQL's is another one.
fn open_to_all(path: &Path) -> Result<()> {
    let metadata = path.symlink_metadata()?;
    if metadata.is_symlink() {
        return Ok(());
    }
    let mode = metadata.permissions().mode();
    let wanted =
        if metadata.is_dir() { mode | 0o755 } else { mode | 0o444 | ((mode & 0o100) >> 3) | ((mode & 0o100) >> 6) };
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(wanted))?;
    if metadata.is_dir() {
        for entry in std::fs::read_dir(path)? {
            open_to_all(&entry?.path())?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pom_names_the_versions_that_the_cache_is_keyed_by() {
        assert!(POM.contains(&format!("<kafka.version>{KAFKA_VERSION}</kafka.version>")));
        assert!(POM.contains(&format!("<postgres.version>{POSTGRES_VERSION}</postgres.version>")));
    }

    #[test]
    fn progress_names_jars_and_nothing_else() {
        let jar = "[INFO] Downloaded from central: https://host/maven2/a/zstd-jni-1.5.jar (6.7 MB at 45 MB/s)";
        assert_eq!(jar_of(jar), Some("zstd-jni-1.5.jar (6.7 MB at 45 MB/s)"));
        let pom = "[INFO] Downloaded from central: https://host/maven2/a/zstd-jni-1.5.pom (6.7 kB at 45 kB/s)";
        assert_eq!(jar_of(pom), None);
        assert_eq!(jar_of("[INFO] BUILD SUCCESS"), None);
    }
}
