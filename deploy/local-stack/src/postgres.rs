//! PostgreSQL, durable as shipped (fsync and synchronous commit stay on), reachable on loopback with a password only.
//!
//! As root it runs under an unprivileged account that owns the cluster's folder. Each service gets a role that owns its
//! database and may connect to no other. Passwords are made up here and kept in the data folder, readable by us alone.

use std::collections::BTreeMap;
use std::io::Write;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::sys::signal::Signal;
use sqlx::{AssertSqlSafe, Connection, PgConnection};

use crate::account::Account;
use crate::artifacts::Artifacts;
use crate::child::{Child, describe};
use crate::service_process::{open_log, tail};

/// The superuser.
pub const SUPERUSER: &str = "postgres";
/// Recovery after a crash is the slow case.
const START_BOUND: Duration = Duration::from_secs(120);
const STOP_BOUND: Duration = Duration::from_secs(20);

/// How to run one server.
#[derive(Clone, Debug)]
pub struct PostgresOptions {
    /// Where it keeps its cluster, passwords and output; made when missing.
    pub data_dir: PathBuf,
    /// The port, on 127.0.0.1.
    pub port: u16,
    /// More server settings; a later one wins.
    pub settings: Vec<(String, String)>,
}

impl PostgresOptions {
    /// A server with its defaults.
    pub fn new(data_dir: impl Into<PathBuf>, port: u16) -> Self {
        Self { data_dir: data_dir.into(), port, settings: Vec::new() }
    }
}

/// A running server; dropping it stops it.
#[derive(Debug)]
pub struct Postgres {
    options: PostgresOptions,
    artifacts: Artifacts,
    account: Option<Account>,
    cluster: PathBuf,
    passwords: BTreeMap<String, String>,
    child: Option<Child>,
}

impl Postgres {
    /// Makes the cluster when the data folder is new, starts the server and waits until it takes connections.
    ///
    /// # Errors
    /// When the programs cannot be fetched, or the server does not start (its log's end is in the error).
    pub async fn start(mut options: PostgresOptions) -> Result<Self> {
        let artifacts = Artifacts::ensure().await?;
        std::fs::create_dir_all(&options.data_dir).with_context(|| format!("making {}", options.data_dir.display()))?;
        options.data_dir = options.data_dir.canonicalize()?;
        let account = Account::for_root()?;
        let wanted = options.data_dir.join("cluster");
        let cluster = match &account {
            Some(account) => account.place(&wanted)?,
            None => wanted,
        };
        let passwords = read_passwords(&options.data_dir)?;
        let mut postgres = Self { options, artifacts, account, cluster, passwords, child: None };
        postgres.init().await?;
        postgres.launch().await?;
        Ok(postgres)
    }

    /// The address of `database` for the superuser.
    pub fn url(&self, database: &str) -> String {
        self.url_as(SUPERUSER, database)
    }

    /// The address of the server's own database, for administration.
    pub fn admin_url(&self) -> String {
        self.url("postgres")
    }

    /// Makes sure that `database` exists, is owned by `role` and closed to every other role; its address for that role.
    ///
    /// # Errors
    /// When a name is not plain lower case, or the server refuses.
    pub async fn create_database(&mut self, database: &str, role: &str) -> Result<String> {
        for name in [database, role] {
            let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_';
            if name.is_empty() || !name.bytes().all(plain) {
                bail!("{name:?} is no plain lower-case name");
            }
        }
        let password = self.password_of(role)?;
        let mut admin = PgConnection::connect(&self.admin_url()).await.context("connecting as superuser")?;
        let role_exists: bool = sqlx::query_scalar("select exists (select from pg_roles where rolname = $1)")
            .bind(role)
            .fetch_one(&mut admin)
            .await?;
        let verb = if role_exists { "alter" } else { "create" };
        run(&mut admin, format!("{verb} role {role} login password '{password}'")).await?;
        let exists: bool = sqlx::query_scalar("select exists (select from pg_database where datname = $1)")
            .bind(database)
            .fetch_one(&mut admin)
            .await?;
        if !exists {
            run(&mut admin, format!("create database {database} owner {role}")).await?;
        }
        run(&mut admin, format!("revoke all on database {database} from public")).await?;
        run(&mut admin, "revoke connect on database postgres, template1 from public".to_owned()).await?;
        admin.close().await?;
        Ok(self.url_as(role, database))
    }

    /// The postmaster's process id, `None` while stopped.
    pub fn pid(&self) -> Option<u32> {
        self.child.as_ref().map(Child::pid)
    }

    /// How it ended if it has ended by itself, for supervision.
    ///
    /// # Errors
    /// When the operating system does not say.
    pub fn ended(&mut self) -> Result<Option<String>> {
        let status = self.child.as_mut().map_or(Ok(None), Child::status)?;
        Ok(status.map(describe))
    }

    /// Fast shutdown: open transactions are rolled back.
    ///
    /// # Errors
    /// When it does not end.
    pub async fn stop(&mut self) -> Result<()> {
        if let Some(mut child) = self.child.take() {
            child.stop(STOP_BOUND).await?;
        }
        Ok(())
    }

    /// Stops it with SIGKILL, as a crash would.
    ///
    /// # Errors
    /// When it does not end.
    pub async fn kill(&mut self) -> Result<()> {
        if let Some(mut child) = self.child.take() {
            child.kill().await?;
        }
        Ok(())
    }

    /// Starts it on the same data and port after [`Postgres::stop`] or [`Postgres::kill`].
    ///
    /// # Errors
    /// As [`Postgres::start`].
    pub async fn start_again(&mut self) -> Result<()> {
        self.kill().await?;
        self.launch().await
    }

    /// [`Postgres::stop`] and [`Postgres::start_again`].
    ///
    /// # Errors
    /// As both.
    pub async fn restart(&mut self) -> Result<()> {
        self.stop().await?;
        self.start_again().await
    }

    /// The file with its output.
    pub fn log_file(&self) -> PathBuf {
        self.options.data_dir.join("postgres.log")
    }

    fn url_as(&self, role: &str, database: &str) -> String {
        let password = self.passwords.get(role).map_or("", String::as_str);
        format!("postgres://{role}:{password}@127.0.0.1:{}/{database}", self.options.port)
    }

    fn password_of(&mut self, role: &str) -> Result<String> {
        if let Some(password) = self.passwords.get(role) {
            return Ok(password.clone());
        }
        let password = format!("{:032x}", rand::random::<u128>());
        self.passwords.insert(role.to_owned(), password.clone());
        let text = serde_json::to_string_pretty(&self.passwords)?;
        write_private(&passwords_file(&self.options.data_dir), &text)?;
        Ok(password)
    }

    /// initdb works beside the final place, so a cluster that is there is complete.
    async fn init(&mut self) -> Result<()> {
        if self.cluster.join("PG_VERSION").exists() {
            return Ok(());
        }
        let fresh = self.cluster.with_extension("new");
        if fresh.exists() {
            std::fs::remove_dir_all(&fresh).with_context(|| format!("removing {}", fresh.display()))?;
        }
        std::fs::create_dir(&fresh).with_context(|| format!("making {}", fresh.display()))?;
        std::fs::set_permissions(&fresh, std::fs::Permissions::from_mode(0o700))?;
        let password_file = self.cluster.with_extension("password");
        write_private(&password_file, &self.password_of(SUPERUSER)?)?;
        if let Some(account) = &self.account {
            account.own(&fresh)?;
            account.own(&password_file)?;
        }
        let mut command = self.program("initdb");
        command.args(["--username", SUPERUSER, "--auth", "scram-sha-256", "--encoding", "UTF8", "--no-instructions"]);
        command.args(["--locale-provider", "builtin", "--builtin-locale", "C.UTF-8", "--locale", "C"]);
        command.arg("--pwfile").arg(&password_file).arg("--pgdata").arg(&fresh);
        let output = tokio::task::spawn_blocking(move || command.output()).await?.context("starting initdb")?;
        std::fs::remove_file(&password_file)?;
        if !output.status.success() {
            let said = [output.stdout, output.stderr].concat();
            bail!("initdb failed:\n{}", String::from_utf8_lossy(&said));
        }
        std::fs::rename(&fresh, &self.cluster).with_context(|| format!("filling {}", self.cluster.display()))
    }

    /// Starts the server; after a kill its last workers may need a moment to let go of the shared memory.
    async fn launch(&mut self) -> Result<()> {
        let start = Instant::now();
        loop {
            self.spawn()?;
            match self.wait_ready(start).await {
                Ok(()) => return Ok(()),
                Err(error) if start.elapsed() < Duration::from_secs(10) && still_attached(&error) => {
                    self.child = None;
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
                Err(error) => return Err(error),
            }
        }
    }

    fn spawn(&mut self) -> Result<()> {
        let mut settings = vec![
            ("listen_addresses".to_owned(), "127.0.0.1".to_owned()),
            ("port".to_owned(), self.options.port.to_string()),
            ("unix_socket_directories".to_owned(), String::new()),
            ("max_connections".to_owned(), "300".to_owned()),
            // The passwords are 128 random bits, which no number of rounds makes harder to guess.
            ("scram_iterations".to_owned(), "64".to_owned()),
        ];
        settings.extend(self.options.settings.iter().cloned());
        let mut command = self.program("postgres");
        command.arg("-D").arg(&self.cluster);
        for (name, value) in settings {
            command.arg("-c").arg(format!("{name}={value}"));
        }
        let output = open_log(&self.log_file())?;
        command.stdin(Stdio::null()).stderr(output.try_clone()?).stdout(output);
        // SIGINT is PostgreSQL's "fast" shutdown; SIGTERM would wait for every client to leave.
        self.child = Some(Child::spawn("PostgreSQL", &mut command, Signal::SIGINT)?);
        Ok(())
    }

    async fn wait_ready(&mut self, start: Instant) -> Result<()> {
        loop {
            let error = match PgConnection::connect(&self.admin_url()).await {
                Ok(connection) => return Ok(connection.close().await?),
                Err(error) => error,
            };
            let ended = self.child.as_mut().map_or(Ok(None), Child::status)?;
            if let Some(status) = ended {
                bail!("PostgreSQL ended with {} instead of starting:\n{}", describe(status), tail(&self.log_file()));
            }
            if start.elapsed() > START_BOUND {
                bail!("PostgreSQL did not answer within {START_BOUND:?} ({error}):\n{}", tail(&self.log_file()));
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    fn program(&self, name: &str) -> Command {
        let mut command = Command::new(self.artifacts.postgres_home.join("bin").join(name));
        command.env_clear().env("LC_ALL", "C").env("PATH", "/usr/bin:/bin").current_dir("/");
        if let Some(account) = &self.account {
            account.apply(&mut command);
        }
        command
    }
}

fn still_attached(error: &anyhow::Error) -> bool {
    let text = format!("{error:#}");
    text.contains("pre-existing shared memory block") || text.contains("lock file \"postmaster.pid\" already exists")
}

fn passwords_file(data_dir: &Path) -> PathBuf {
    data_dir.join("passwords.json")
}

fn read_passwords(data_dir: &Path) -> Result<BTreeMap<String, String>> {
    let path = passwords_file(data_dir);
    match std::fs::read(&path) {
        Ok(bytes) => serde_json::from_slice(&bytes).with_context(|| format!("reading {}", path.display())),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(BTreeMap::new()),
        Err(error) => Err(error).with_context(|| format!("reading {}", path.display())),
    }
}

/// Writes a file that only this account may read, whole or not at all.
///
/// # Errors
/// When it cannot be written.
pub fn write_private(path: &Path, text: &str) -> Result<()> {
    let fresh = path.with_extension("part");
    let write = || -> std::io::Result<()> {
        let mut file = std::fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&fresh)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        std::fs::rename(&fresh, path)
    };
    write().with_context(|| format!("writing {}", path.display()))
}

/// Runs a statement whose names were checked and whose password is our own hexadecimal one.
async fn run(connection: &mut PgConnection, statement: String) -> Result<()> {
    let verb: String = statement.split(" password ").next().unwrap_or_default().to_owned();
    sqlx::raw_sql(AssertSqlSafe(statement)).execute(connection).await.with_context(|| verb)?;
    Ok(())
}
