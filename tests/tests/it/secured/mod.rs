//! The suite on servers as `deploy/kubernetes` has them. Kafka: TLS, clients known by their certificates, each with the rights
//! of its `KafkaUser` and no others; two of the services by passwords instead. PostgreSQL: TLS, the server known by its certificate.

mod certificates;
mod passwords;
mod rights;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::{Output, Stdio};

use anyhow::{Context, Result, ensure};
use messaging::topics::TopicsFile;
use serde_json::Value;
use sqlx::{AssertSqlSafe, Connection as _, PgConnection};
use system_tests::stories::kinds;
use system_tests::{BOUND, Build, NewOrder, Service, Settings, Suite};
use testkit::{Cluster, Kafka, KafkaOptions, PrivateCluster, Scratch, eventually, faulty_binary, free_port};
use tokio::process::Command;
use tokio::try_join;

use self::certificates::Authority;
use self::passwords::Mechanism;
use self::rights::Rule;
use crate::dead_letters::{DO_IT, dlt_with, gateway_is, wait_dead};
use crate::{RUNTIME, tell};

/// Who clients of a broker are, and how they reach it.
struct Secured {
    cluster: PrivateCluster,
    /// Where clients are known by their certificates.
    bootstrap: String,
    /// Where they are known by their passwords.
    bootstrap_of_passwords: String,
    properties: String,
    database_options: String,
    users: BTreeMap<String, Vec<Rule>>,
    folder: Scratch,
}

impl Secured {
    /// Three listeners: one for those whom this test trusts with everything, one as Strimzi makes it, one for passwords.
    async fn start() -> Result<Self> {
        let manifests = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/kubernetes");
        let (folder, ports) = (Scratch::new("secured")?, [free_port()?, free_port()?]);
        let (brokers, clients) = (Authority::new("cluster-ca")?, Authority::new("clients-ca")?);
        let (key, certificate) = brokers.sign("suite-kafka", &["127.0.0.1"])?;
        let (own, trusted) = (folder.path().join("broker.pem"), folder.path().join("clients-ca.pem"));
        std::fs::write(&own, key + &certificate)?;
        std::fs::write(&trusted, &clients.certificate)?;
        let users = rights::of_the_manifests(&manifests)?;
        for user in users.keys() {
            certificates::folder(folder.path(), user, &brokers, &clients)?;
        }
        certificates::folder(folder.path(), "stranger", &brokers, &Authority::new("clients-ca")?)?;
        let mut cluster = Cluster::private_with(|options| listen(options, ports, &own, &trusted)).await?;
        for user in passwords::users(Mechanism::Scram) {
            passwords::make_known(cluster.kafka()?, user).await?;
        }
        let database = Authority::new("database-ca")?;
        let (key, certificate) = database.sign("suite-database-rw", &["127.0.0.1"])?;
        encrypt(cluster.admin_url(), &key, &certificate).await?;
        std::fs::write(folder.path().join("ca.crt"), &database.certificate)?;
        let database_options = variable(&manifests.join("components/postgres/postgres.env"), "DATABASE_OPTIONS")?;
        Ok(Self {
            cluster,
            bootstrap: format!("127.0.0.1:{}", ports[0]),
            bootstrap_of_passwords: format!("127.0.0.1:{}", ports[1]),
            properties: variable(&manifests.join("components/kafka/kafka.env"), "KAFKA_PROPERTIES")?,
            database_options: database_options.replace("/etc/postgres", &folder.path().display().to_string()),
            users,
            folder,
        })
    }

    /// What a client with `name`'s certificate or password is told.
    fn environment(&self, name: &str) -> Vec<(String, String)> {
        match Mechanism::of(name) {
            Some(mechanism) => self.with_password(name, mechanism, &passwords::of(name, mechanism)),
            None => {
                let folder = self.folder.path().join(name).display().to_string();
                told(&self.bootstrap, self.properties.replace("/etc/kafka", &folder))
            }
        }
    }

    fn with_password(&self, name: &str, mechanism: Mechanism, password: &str) -> Vec<(String, String)> {
        let authority = self.folder.path().join(name).join("ca.crt");
        let properties = format!(
            "security.protocol=sasl_ssl,ssl.ca.location={},sasl.mechanism={},sasl.username={name},sasl.password={}",
            authority.display(),
            mechanism.name(),
            password.replace(',', "\\,")
        );
        told(&self.bootstrap_of_passwords, properties)
    }

    fn settings(&self) -> Settings {
        let environment_of = Service::ALL.map(|service| (service, self.environment(service.name())));
        let (database_options, environment_of) = (self.database_options.clone(), environment_of.into());
        Settings { build: Build::Faulty, database_options, environment_of, ..Settings::default() }
    }

    /// Runs the command line as `user`.
    async fn suite(&self, suite: &Suite, user: &str, words: &[&str]) -> Result<Output> {
        suite_as(suite, &self.environment(user), words).await
    }
}

/// Runs the command line as who these variables tell of.
async fn suite_as(suite: &Suite, environment: &[(String, String)], words: &[&str]) -> Result<Output> {
    let mut command = Command::new(faulty_binary("suite")?);
    command.args(words).envs(environment.iter().cloned()).env("TOPIC_PREFIX", suite.physical(""));
    Ok(command.stdin(Stdio::null()).output().await?)
}

fn told(bootstrap: &str, properties: String) -> Vec<(String, String)> {
    vec![("KAFKA_BOOTSTRAP".to_owned(), bootstrap.to_owned()), ("KAFKA_PROPERTIES".to_owned(), properties)]
}

fn listen(options: &mut KafkaOptions, [secured, passwords]: [u16; 2], own: &Path, trusted: &Path) {
    let controller = options.voters[0].1;
    let for_clients = format!(
        "PLAINTEXT://127.0.0.1:{},SECURED://127.0.0.1:{secured},PASSWORDS://127.0.0.1:{passwords}",
        options.port
    );
    let of_clients = |name: &str| format!("listener.name.secured.ssl.{name}");
    options.settings.extend(passwords::listener("passwords"));
    for listener in ["secured", "passwords"] {
        let keystore = format!("listener.name.{listener}.ssl.keystore");
        options.settings.push((format!("{keystore}.type"), "PEM".to_owned()));
        options.settings.push((format!("{keystore}.location"), own.display().to_string()));
    }
    options.settings.extend([
        ("listeners".to_owned(), format!("{for_clients},CONTROLLER://127.0.0.1:{controller}")),
        ("advertised.listeners".to_owned(), for_clients),
        (
            "listener.security.protocol.map".to_owned(),
            "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT,SECURED:SSL,PASSWORDS:SASL_SSL".to_owned(),
        ),
        ("authorizer.class.name".to_owned(), "org.apache.kafka.metadata.authorizer.StandardAuthorizer".to_owned()),
        ("super.users".to_owned(), "User:ANONYMOUS".to_owned()),
        (of_clients("client.auth"), "required".to_owned()),
        (of_clients("truststore.type"), "PEM".to_owned()),
        (of_clients("truststore.location"), trusted.display().to_string()),
    ]);
}

fn variable(file: &Path, name: &str) -> Result<String> {
    let text = std::fs::read_to_string(file)?;
    let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('='));
    Ok(value.with_context(|| format!("{} says nothing of {name}", file.display()))?.to_owned())
}

/// Has PostgreSQL take connections by TLS too. The server writes the files itself: it takes only a key of its own account's.
async fn encrypt(admin_url: &str, key: &str, certificate: &str) -> Result<()> {
    let mut admin = PgConnection::connect(admin_url).await?;
    for (file, text) in [("server.key", key), ("server.crt", certificate)] {
        let one_line = format!("select translate(encode('{text}', 'base64'), E'\\n', '')");
        let copy = format!("copy ({one_line}) to program 'umask 077; base64 -d >{file}'");
        sqlx::raw_sql(AssertSqlSafe(copy)).execute(&mut admin).await.context(file)?;
    }
    sqlx::raw_sql("alter system set ssl = on").execute(&mut admin).await?;
    sqlx::raw_sql("select pg_reload_conf()").execute(&mut admin).await?;
    admin.close().await?;
    eventually("PostgreSQL speaks TLS", BOUND, async || {
        // The server as it is when it takes this connection.
        let mut later = PgConnection::connect(admin_url).await?;
        let is_on: bool = sqlx::query_scalar("select current_setting('ssl')::bool").fetch_one(&mut later).await?;
        ensure!(is_on, "not yet");
        Ok(later.close().await?)
    })
    .await
}

/// Giving everybody its rights takes Kafka's own command some ten seconds: so all of it is one story.
#[test]
fn over_tls_and_with_the_rights_of_the_manifests_and_no_others_every_promise_is_kept() -> Result<()> {
    RUNTIME.block_on(async {
        let mut secured = Secured::start().await?;
        let mut suite = Suite::launch(&secured.cluster, &secured.settings()).await?;
        let told = async {
            without_rights_nobody_sees_a_topic(&suite).await?;
            let (users, prefix) = (secured.users.clone(), suite.physical(""));
            rights::give(secured.cluster.kafka()?, &users, &prefix).await?;
            suite.wait_ready().await?;
            let sku = suite.new_product(100).await?;
            orders_of_every_kind_end(&suite, &sku).await?;
            every_service_speaks_tls_to_its_database(&suite).await?;
            a_database_of_another_authority_is_not_spoken_to(&secured, &suite).await?;
            a_dead_letter_comes_home(&secured, &suite, &sku).await?;
            everybody_sees_its_own_topics_only(&secured, &suite).await?;
            nobody_else_gets_in_and_who_only_reads_changes_nothing(&secured, &suite).await?;
            an_operator_reads_lag_with_kafkas_own_command(&mut secured, &suite).await?;
            what_is_taken_away_and_given_back_loses_nothing(&mut secured, &suite, &sku).await?;
            suite.stop_all().await?;
            nobody_tells_a_password(&suite)
        }
        .await;
        tell(&suite, &told);
        suite.throw_away().await;
        told
    })
}

async fn without_rights_nobody_sees_a_topic(suite: &Suite) -> Result<()> {
    for service in Service::ALL {
        says(suite, service, 0, "topics are missing, or this user may not see them").await?;
    }
    Ok(())
}

async fn orders_of_every_kind_end(suite: &Suite, sku: &str) -> Result<()> {
    let mut orders = Vec::new();
    for order in kinds(sku) {
        orders.push(suite.place(&order).await?);
    }
    suite.check(&orders).await?;
    Ok(())
}

async fn every_service_speaks_tls_to_its_database(suite: &Suite) -> Result<()> {
    for service in Service::ALL {
        let (all, encrypted): (i64, i64) = sqlx::query_as(
            "select count(*), count(*) filter (where ssl) from pg_stat_ssl join pg_stat_activity using (pid) \
             where application_name = $1",
        )
        .bind(service.name())
        .fetch_one(suite.database(service))
        .await?;
        ensure!(all > 0 && encrypted == all, "{} of {all} connections of {}", encrypted, service.name());
    }
    Ok(())
}

async fn a_database_of_another_authority_is_not_spoken_to(secured: &Secured, suite: &Suite) -> Result<()> {
    let url = suite.database_url(Service::Order).to_owned() + &secured.database_options;
    let mut command = Command::new(faulty_binary("order-service")?);
    command.arg("migrate").env("DATABASE_URL", url.replace("ca.crt", "clients-ca.pem")).env("DATABASE_WAIT_SECS", "0");
    command.env("HTTP_ADDR", "127.0.0.1:1").envs(secured.environment("order-service"));
    let output = command.stdin(Stdio::null()).output().await?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(!output.status.success() && said.contains("invalid peer certificate"), "{}: {said}", output.status);
    Ok(())
}

async fn a_dead_letter_comes_home(secured: &Secured, suite: &Suite, sku: &str) -> Result<()> {
    gateway_is(suite, true).await?;
    let order = suite.place(&NewOrder::of(sku, 1)).await?;
    wait_dead(suite, order).await?;
    gateway_is(suite, false).await?;
    let (key, operator) = (order.to_string(), secured.environment("operator"));
    let dlt = async |words: &[&str]| {
        let command = Command::new(faulty_binary("suite")?);
        dlt_with(suite, command, operator.clone(), &[words, &["--key", &key]].concat()).await
    };
    let listed = dlt(&["list"]).await?;
    ensure!(listed.contains(&key), "{listed}");
    dlt(&[&["redrive"], DO_IT.as_slice()].concat()).await?;
    suite.expect_end(order, "confirmed").await?;
    suite.check_redriven(&[order]).await?;
    Ok(())
}

async fn everybody_sees_its_own_topics_only(secured: &Secured, suite: &Suite) -> Result<()> {
    let declared = TopicsFile::builtin()?.expand();
    for (user, rules) in &secured.users {
        let listed = secured.suite(suite, user, &["topics", "list", "--json"]).await?;
        ensure!(listed.status.success(), "{user}: {}", String::from_utf8_lossy(&listed.stderr));
        let lines = listed.stdout.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
        let topics: Vec<Value> = lines.map(serde_json::from_slice).collect::<Result<_, _>>()?;
        let seen = topics.iter().filter(|topic| !topic["found"].is_null()).filter_map(|topic| topic["topic"].as_str());
        let may = declared.iter().filter(|topic| rules.iter().any(|rule| rule.resource.is_topic(&topic.name)));
        let (seen, may) = (seen.collect::<BTreeSet<_>>(), may.map(|topic| &*topic.name).collect::<BTreeSet<_>>());
        ensure!(seen == may && !seen.is_empty(), "{user} sees {seen:?} instead of {may:?}");
        for topic in topics.iter().filter(|topic| !topic["found"].is_null()) {
            let name = topic["topic"].as_str().unwrap_or_default();
            let told = rules.iter().any(|rule| rule.resource.is_topic(name) && rule.allows("DescribeConfigs"));
            ensure!(topic["found"]["config"].is_null() != told, "{user} is told of the settings of {name}: {topic}");
        }
    }
    Ok(())
}

async fn nobody_else_gets_in_and_who_only_reads_changes_nothing(secured: &Secured, suite: &Suite) -> Result<()> {
    let (list, apply) = (["topics", "list"], ["topics", "apply", "--partitions", "2", "--prefix", "elsewhere."]);
    let wrong = |service: Service, mechanism| secured.with_password(service.name(), mechanism, "hush-of-nobody");
    let (scram, plain) = (wrong(Service::Payment, Mechanism::Scram), wrong(Service::Notification, Mechanism::Plain));
    let (stranger, operator, scram, plain) = try_join!(
        secured.suite(suite, "stranger", &list),
        secured.suite(suite, "operator", &apply),
        suite_as(suite, &scram, &list),
        suite_as(suite, &plain, &list)
    )?;
    let wrong = "authentication failed";
    for (output, why) in [(stranger, "alert"), (operator, "authoriz"), (scram, wrong), (plain, wrong)] {
        let said = String::from_utf8_lossy(&output.stderr).to_lowercase();
        ensure!(!output.status.success() && said.contains(why) && !said.contains("hush"), "{}: {said}", output.status);
    }
    Ok(())
}

fn nobody_tells_a_password(suite: &Suite) -> Result<()> {
    for service in Service::ALL {
        let Some(mechanism) = Mechanism::of(service.name()) else { continue };
        ensure!(!log(suite, service)?.contains(&passwords::of(service.name(), mechanism)), "{} does", service.name());
    }
    Ok(())
}

async fn an_operator_reads_lag_with_kafkas_own_command(secured: &mut Secured, suite: &Suite) -> Result<()> {
    let folder = secured.folder.path().join("operator");
    let part = |name: &str| std::fs::read_to_string(folder.join(name)).map(|text| text.replace('\n', "\\n"));
    let properties = format!(
        "security.protocol=SSL\nssl.truststore.type=PEM\nssl.truststore.certificates={}\nssl.keystore.type=PEM\n\
         ssl.keystore.certificate.chain={}\nssl.keystore.key={}\n",
        part("ca.crt")?,
        part("user.crt")?,
        part("user.key")?
    );
    std::fs::write(folder.join("client.properties"), properties)?;
    let (file, group) = (folder.join("client.properties").display().to_string(), suite.physical("payment-service"));
    let arguments =
        ["--bootstrap-server", &secured.bootstrap, "--command-config", &file, "--describe", "--group", &group];
    let told = secured.cluster.kafka()?.tool("org.apache.kafka.tools.consumer.group.ConsumerGroupCommand", &arguments);
    let told = told.await?;
    ensure!(told.contains("LAG") && told.contains(&suite.physical("orders")), "{told}");
    Ok(())
}

async fn what_is_taken_away_and_given_back_loses_nothing(
    secured: &mut Secured,
    suite: &Suite,
    sku: &str,
) -> Result<()> {
    let prefix = suite.physical("");
    for (service, kind, name, complaint) in [
        (Service::Inventory, "topic", "inventory", "TopicAuthorizationFailed"),
        (Service::Payment, "topic", "orders", "TopicAuthorizationFailed"),
        (Service::Payment, "group", "payment-service", "GroupAuthorizationFailed"),
    ] {
        let rules = secured.users[service.name()].iter();
        let taken: Vec<Rule> =
            rules.filter(|rule| (&*rule.resource.kind, &*rule.resource.name) == (kind, name)).cloned().collect();
        ensure!(!taken.is_empty(), "{} has a right on {name}", service.name());
        let said = log(suite, service)?.len();
        let kafka: &Kafka = secured.cluster.kafka()?;
        rights::change(kafka, "--remove", service.name(), &taken, &prefix).await?;
        // What the service did before it heard of that is no matter.
        let orders = [suite.place(&NewOrder::of(sku, 1)).await?, suite.place(&NewOrder::of(sku, 1)).await?];
        says(suite, service, said, complaint).await?;
        rights::change(kafka, "--add", service.name(), &taken, &prefix).await?;
        suite.check(&orders).await?;
    }
    // The relay has tried every three seconds meanwhile, with a new producer each time; it tells again after half a minute.
    let (relay, said) = (log(suite, Service::Inventory)?, |text| move |line: &&str| line.contains(text));
    let told = relay.lines().filter(said("rows are not acknowledged")).filter(said("TopicAuthorizationFailed")).count();
    ensure!((1..=2).contains(&told), "told {told} times");
    ensure!(!relay.contains("enable.gapless.guarantee"), "what is set on purpose is not warned of");
    Ok(())
}

fn log(suite: &Suite, service: Service) -> Result<String> {
    Ok(std::fs::read_to_string(suite.folder().join(format!("{}-0.log", service.name())))?)
}

/// Waits until a service has logged `text` after its first `from` bytes.
async fn says(suite: &Suite, service: Service, from: usize, text: &str) -> Result<()> {
    eventually(format!("{} says: {text}", service.name()), BOUND, async || {
        ensure!(log(suite, service)?[from..].contains(text), "it has not");
        Ok(())
    })
    .await
}
