//! `local-stack up`: the whole suite on this machine, until it is told to stop.

use anyhow::Result;
use local_stack::child::{describe, status_number};

use crate::settings::{SERVICES, Settings};
use crate::signals::StopSignals;
use crate::stack::{Environment, Stack, run_in_front, say};
use crate::state::DataFolder;

/// How the time between start and stop ended.
enum End {
    /// A signal, with its number.
    Asked(u8),
    /// The sample order has ended with this status, and nothing more was wanted.
    Once(u8),
}

/// Runs the suite; the exit status.
pub async fn run(once: bool) -> Result<u8> {
    let mut signals = StopSignals::listen()?;
    let settings = Settings::load()?;
    let folder = DataFolder::take(&settings.data_dir)?;
    let mut stack = Stack::default();
    let end = tokio::select! {
        end = live(&mut stack, &settings, &folder, once) => end,
        signal = signals.next() => Ok(End::Asked(signal)),
    };
    if let Err(error) = &end {
        eprintln!("local-stack: {error:#}");
    }
    say("stopping");
    let stopped = tokio::select! {
        stopped = stack.stop() => stopped,
        _ = signals.next() => {
            say("stopping at once");
            Ok(())
        }
    };
    drop(stack);
    stopped?;
    Ok(match end {
        // To be stopped is how a run ends, but not how a sample order does.
        Ok(End::Asked(signal)) if once => 128 + signal,
        Ok(End::Asked(_)) => 0,
        Ok(End::Once(status)) => status,
        Err(_) => 1,
    })
}

async fn live(stack: &mut Stack, settings: &Settings, folder: &DataFolder, once: bool) -> Result<End> {
    let environment = stack.start(settings, folder).await?;
    print_table(settings, folder, &environment);
    say("\nA sample order:");
    let sample =
        run_in_front(settings, &["place", "--sku", "SKU-1", "--watch", "--expect", "confirmed"], &environment).await?;
    if once {
        return Ok(End::Once(status_number(sample)));
    }
    if !sample.success() {
        say(&format!("The sample order ended with {}: see the logs", describe(sample)));
    }
    say("\nRunning. Ctrl-C (or `make stop`) stops everything; `make reset` forgets the data.");
    match stack.supervise().await? {}
}

fn print_table(settings: &Settings, folder: &DataFolder, environment: &Environment) {
    let of = |name: &str| environment.iter().find(|(found, _)| found == name).map_or("", |(_, value)| value);
    say("\nReady:");
    let row = |name: &str, what: &str| say(&format!("  {name:<22}{what}"));
    for service in &SERVICES {
        let url = of(&format!("{}_URL", service.key));
        let page = if service.key == "ORDER" { format!("  (API: {url}/docs)") } else { String::new() };
        row(service.name, &format!("{url}{page}"));
    }
    row("sandbox gateway", &format!("{}/v1/ledger", of("GATEWAY_URL")));
    row("Kafka", of("KAFKA_BOOTSTRAP"));
    let data = folder.path().display();
    if settings.database_urls.len() < SERVICES.len() {
        let port = settings.port("POSTGRES_PORT");
        row("PostgreSQL", &format!("127.0.0.1:{port} (addresses with passwords: {data}/stack.env)"));
    }
    if std::env::var_os("SMTP_URL").is_none() {
        row("mails", &format!("{data}/mails"));
    }
    row("logs", &format!("{data}/logs"));
    say("\nIn another terminal:\n  ./suite place --sku SKU-1 --watch\n  ./suite --help");
}
