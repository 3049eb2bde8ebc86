//! The service's program refuses to start under settings and topics that would break a guarantee, on a real broker.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use inventory_service::NAME;
use messaging::topics::{Overrides, TopicsFile, apply};
use testkit::{Cluster, Scratch, ServiceOptions, ServiceProcess, TestDatabase, TestTopics, eventually, free_port};

const BOUND: Duration = Duration::from_secs(30);

struct Started {
    process: ServiceProcess,
    url: String,
    topics: TestTopics,
    _db: TestDatabase,
    folder: Scratch,
}

impl Started {
    /// Starts the program on `topics`, with these settings on top.
    async fn on(topics: TestTopics, settings: &[(&str, &str)]) -> Result<Self> {
        let cluster = Cluster::shared().await?;
        let (db, folder) = (cluster.database(NAME).await?, Scratch::new(NAME)?);
        let addr = format!("127.0.0.1:{}", free_port()?);
        let usual = [
            ("HTTP_ADDR", addr.as_str()),
            ("DATABASE_URL", &db.url),
            ("KAFKA_BOOTSTRAP", cluster.bootstrap()),
            ("TOPIC_PREFIX", topics.prefix()),
            ("LOG_FORMAT", "text"),
        ];
        let environment = usual.iter().chain(settings).map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        let process = ServiceProcess::spawn(ServiceOptions {
            name: NAME.to_owned(),
            program: PathBuf::from(env!("CARGO_BIN_EXE_inventory-service")),
            arguments: Vec::new(),
            environment: environment.collect(),
            log_file: folder.path().join("service.log"),
        })?;
        Ok(Self { process, url: format!("http://{addr}/readyz"), topics, _db: db, folder })
    }

    fn log(&self) -> Result<String> {
        Ok(std::fs::read_to_string(self.folder.path().join("service.log"))?)
    }

    /// How it ended by itself, and the last line it said.
    async fn ended(&mut self) -> Result<(Option<i32>, String)> {
        let status = self.process.wait(BOUND).await?;
        let status = status.with_context(|| format!("it was not refused:\n{}", self.process.tail()))?;
        Ok((status.code(), self.log()?.lines().last().unwrap_or_default().to_owned()))
    }
}

/// The suite's topics, with one number of the declaration changed.
async fn declared_otherwise(topics: &TestTopics, from: &str, to: &str) -> Result<()> {
    let folder = Scratch::new("topics")?;
    let (path, text) = (folder.path().join("topics.toml"), include_str!("../../../deploy/topics.toml"));
    ensure!(text.contains(from), "the declaration has no {from}");
    std::fs::write(&path, text.replace(from, to))?;
    let overrides = Overrides { partitions: Some(1), replication: Some(1) };
    apply(&Cluster::shared().await?.bootstrap().into(), topics.prefix(), &TopicsFile::load(&path)?, overrides).await?;
    Ok(())
}

#[tokio::test]
async fn settings_that_break_a_guarantee_end_the_program_with_their_name_and_the_fix() -> Result<()> {
    for (name, value, fix) in [
        ("INBOX_DAYS", "20", "set it to 28 or more"),
        ("KAFKA_PROPERTIES", "acks=1", "acks must not be set there: less than all would lose events"),
        ("KAFKA_PROPERTIES", "enable.auto.offset.store=true", "before its event's effects are committed"),
        ("CALL_TIMEOUT_MS", "300000", "must be below MAX_POLL_INTERVAL_MS"),
        ("SHUTDOWN_DEADLINE_SECS", "5", "set it to 9 or more"),
    ] {
        let mut started = Started::on(Cluster::shared().await?.topics(), &[(name, value)]).await?;
        let (status, said) = started.ended().await?;
        assert_eq!(status, Some(2), "{said}");
        assert!(said.starts_with(&format!("{NAME}: {name} can't be used: ")) && said.contains(fix), "{said}");
    }
    Ok(())
}

#[tokio::test]
async fn fewer_partitions_on_a_retry_topic_than_on_its_source_end_the_program() -> Result<()> {
    let topics = Cluster::shared().await?.topics();
    topics.create("orders", 2).await?;
    topics.create(&format!("{NAME}.retry.3"), 1).await?;
    for name in ["retry.0", "retry.1", "retry.2", "retry.4", "dlt"] {
        topics.create(&format!("{NAME}.{name}"), 2).await?;
    }
    let mut started = Started::on(topics, &[]).await?;
    let (status, said) = started.ended().await?;
    let prefix = started.topics.prefix();
    let expected = format!(
        "{NAME}: task consumer failed: refused to start: topic {prefix}{NAME}.retry.3 has 1 partitions, its source \
         {prefix}orders has 2: "
    );
    assert_eq!(status, Some(1), "{said}");
    assert!(said.starts_with(&expected) && said.ends_with("run `suite topics apply`"), "{said}");
    Ok(())
}

#[tokio::test]
async fn live_topics_that_outlast_the_inbox_end_the_program_whatever_the_declaration_says() -> Result<()> {
    let topics = Cluster::shared().await?.topics();
    declared_otherwise(&topics, "dead_letter_retention_days = 14", "dead_letter_retention_days = 40").await?;
    let mut started = Started::on(topics, &[]).await?;
    let (status, said) = started.ended().await?;
    assert_eq!(status, Some(1), "{said}");
    let expected =
        "refused to start: INBOX_DAYS can't be used: 30 days are fewer than the 54 that the live topics keep";
    assert!(said.contains(expected) && said.contains("set it to 54 or more"), "{said}");
    Ok(())
}

#[tokio::test]
async fn missing_topics_are_waited_for_and_the_command_that_makes_them_is_told() -> Result<()> {
    let cluster = Cluster::shared().await?;
    let topics = cluster.topics();
    let command =
        format!("KAFKA_BOOTSTRAP={} TOPIC_PREFIX={} suite topics apply", cluster.bootstrap(), topics.prefix());
    let mut started = Started::on(topics, &[]).await?;
    eventually("the command is told", BOUND, async || {
        ensure!(started.log()?.contains(&command), "{}", started.process.tail());
        Ok(())
    })
    .await?;
    started.topics.apply(1).await?;
    started.process.wait_ready(&started.url, BOUND).await?;
    let ended = started.process.terminate(Duration::from_secs(10)).await?;
    ensure!(ended.success(), "{ended}\n{}", started.process.tail());
    Ok(())
}
