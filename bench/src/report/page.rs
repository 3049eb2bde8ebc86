//! The page docs/performance.md, and the figures of the README.

use std::fmt::Write as _;
use std::path::Path;

use anyhow::{Context, Result};

use super::model::{Provenance, Results, Round};
use super::plots;
use super::spring::{beside_spring, summary};
use super::targets::{Targets, median, spread};
use crate::limits::Roofline;
use crate::measure::postgres::Statement;
use crate::plan::ABLATIONS;
use crate::rig::HEAP_MB;
use crate::scenarios::{Recovery, Stages};

/// Writes the page, and its plots into `performance/` beside it.
///
/// # Errors
/// When they cannot be written.
pub fn write_page(results: &Results, page: &Path) -> Result<()> {
    let folder = page.with_extension("");
    std::fs::create_dir_all(&folder).with_context(|| format!("making {}", folder.display()))?;
    let plots = plots::draw(results, &folder)?;
    let name = folder.file_name().and_then(|name| name.to_str()).context("the page has no name")?;
    let mut text = render(results);
    if !plots.is_empty() {
        text.push_str("## Plots\n");
    }
    for (file, title) in plots {
        let _ = write!(text, "\n![{title}]({name}/{file})\n");
    }
    std::fs::write(page, text).with_context(|| format!("writing {}", page.display()))
}

const README_BEGIN: &str = "<!-- figures of make bench: begin -->\n";
const README_END: &str = "<!-- figures of make bench: end -->";

/// Writes the README's figures between their marks.
///
/// # Errors
/// When the file can't be read or written, or has no marks.
pub fn write_readme(results: &Results, readme: &Path) -> Result<()> {
    let text = std::fs::read_to_string(readme).with_context(|| format!("reading {}", readme.display()))?;
    let (before, rest) = text.split_once(README_BEGIN).context("the README has no mark where figures begin")?;
    let (_, after) = rest.split_once(README_END).context("the README has no mark where figures end")?;
    let beside = summary(&results.spring).map_or_else(String::new, |text| format!("\n{text}"));
    let text = format!("{before}{README_BEGIN}{}{beside}{README_END}{after}", readme_figures(results));
    std::fs::write(readme, text).with_context(|| format!("writing {}", readme.display()))
}

fn readme_figures(results: &Results) -> String {
    let middle = |name: &str| {
        let rate = RATES.iter().find(|(other, _)| *other == name).map(|(_, rate)| rate)?;
        median(&results.rounds.iter().filter_map(rate).collect::<Vec<_>>())
    };
    let targets = Targets::of(results);
    let ratio = |name: &str| targets.0.iter().find(|figure| figure.name.starts_with(name)).and_then(|it| it.median());
    let whole = |value: Option<f64>| value.map_or_else(|| "-".to_owned(), |value| thousands(value.round()));
    let two = |value: Option<f64>| value.map_or_else(|| "-".to_owned(), |value| format!("{value:.2}"));
    let (cores, flush) = (results.provenance.cores, results.provenance.flush_before.fdatasync_us);
    format!(
        "On {cores} cores that load, services, broker and database share, with fsync, `synchronous_commit` and `acks=all` on \
         (one flush: {flush} µs), the median of {} rounds; a ratio's limit was measured in the same round:\n\n\
         | | | ratio |\n|---|---|---|\n\
         | orders a second, from the POST to the last one final | {} | {} of what the CPU allows |\n\
         | CPU seconds for 10,000 orders, all but the load | {} | |\n\
         | orders a second that POST takes, consumers stopped | {} | {} of pgbench with the same rows, one by one |\n\
         | events a second that inventory-service works off | {} | {} of pgbench with the same rows, 500 at once |\n\
         | placed to final at 100 orders a second, p50 | {} ms | {} times 2 Kafka hops and 3 commits in a tight loop, {} times \
         those of such a load |\n\
         | memory of the four services under load | {} MB | |\n\
         | lost or doubled effects | {} | |\n",
        results.rounds.len(),
        whole(middle("end to end, orders/s")),
        two(ratio("end to end orders/s")),
        two(middle("CPU seconds for 10,000 orders, all but the load")),
        whole(middle("POST, orders/s, consumers stopped")),
        two(ratio("POST/s, consumers stopped")),
        whole(median(&drains_of(results, "inventory-service"))),
        two(ratio("inventory drain, events/s")),
        two(middle("placed to final at 100 orders/s, p50, ms")),
        two(ratio("placed to final p50 at low load / (2 hops + 3 commits p50, in a tight loop)")),
        two(ratio("placed to final p50 at low load / (2 hops + 3 commits p50, at that load)")),
        whole(ratio("RSS of all four services, under load")),
        results.violations(),
    )
}

/// With a comma between thousands.
fn thousands(value: f64) -> String {
    let digits = format!("{value:.0}");
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index) % 3 == 0 {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

fn render(results: &Results) -> String {
    let mut text = String::from(
        "# Performance\n\nGenerated by `make bench`; not edited by hand. How it is measured: [bench/README.md](../bench/README.md).\n\n",
    );
    provenance(&mut text, results);
    let _ = writeln!(
        text,
        "## Targets\n\nEach figure is a ratio within one round; the median of {} rounds counts. `missed` is written down as \
         a miss.\n\n{}",
        results.rounds.len(),
        Targets::of(results)
    );
    rates(&mut text, results);
    cpu(&mut text, results);
    counts(&mut text, results);
    ablations(&mut text, results);
    recovery(&mut text, results);
    soak(&mut text, results);
    spring(&mut text, results);
    text
}

fn provenance(text: &mut String, results: &Results) {
    let provenance = &results.provenance;
    let durability = &provenance.durability;
    let after = results.flush_after.map_or_else(String::new, |flush| format!(", {} µs after", flush.fdatasync_us));
    let _ = writeln!(
        text,
        "Commit {}, {}, {} cores ({}), {} MB, {}. PostgreSQL {} with fsync={}, synchronous_commit={}, \
         full_page_writes={}, wal_sync_method={}; Kafka producers with acks={}, one broker; mails in a folder {}. Load, services, \
         broker and database share the cores. One flush (8 KiB and fdatasync, pg_test_fsync): {} µs before{after}.\n",
        provenance.commit,
        provenance.rustc,
        provenance.cores,
        provenance.processor,
        provenance.memory_mb,
        provenance.kernel,
        durability.postgres,
        durability.fsync,
        durability.synchronous_commit,
        durability.full_page_writes,
        durability.wal_sync_method,
        durability.acks,
        provenance.mails,
        provenance.flush_before.fdatasync_us,
    );
}

type Rate = fn(&Round) -> Option<f64>;

const RATES: [(&str, Rate); 21] = [
    ("end to end, orders/s", |round| Some(round.end_to_end.as_ref()?.orders_per_second)),
    ("CPU roofline, orders/s", |round| Some(round.roofline()?.orders_per_second())),
    ("the same with the gateway's calls and the mails, orders/s", |round| Some(round.roofline()?.with_effects())),
    ("end to end orders/s / the same with the gateway's calls and the mails", |round| {
        Some(round.end_to_end.as_ref()?.orders_per_second / round.roofline()?.with_effects())
    }),
    ("CPU seconds for 10,000 orders, all but the load", |round| {
        Some(10.0 * round.end_to_end.as_ref()?.cpu_but_the_load()?)
    }),
    // An order of another saga has another number of them.
    ("CPU microseconds for an event, all but the load", |round| {
        let found = round.end_to_end.as_ref()?;
        Some(1_000.0 * found.cpu_but_the_load()? / found.events_per_order())
    }),
    ("POST, orders/s, consumers stopped", |round| Some(round.post.as_ref()?.ceiling_per_second())),
    ("pgbench of a POST's rows, transactions/s", |round| Some(round.post.as_ref()?.best_single())),
    ("bare axum, requests/s", |round| Some(round.limits.as_ref()?.bare_axum.ceiling_per_second)),
    ("pgbench of inventory's rows, n = 1, events/s", |round| of_batches(round, 1)),
    ("pgbench of inventory's rows, n = 100, events/s", |round| of_batches(round, 100)),
    ("pgbench of inventory's rows, n = 500, events/s", |round| Some(round.drain.as_ref()?.rows_per_second())),
    ("what this broker takes, records/s", |round| Some(round.limits.as_ref()?.broker.produced_per_second)),
    ("what it hands out, records/s", |round| Some(round.limits.as_ref()?.broker.consumed_per_second)),
    ("one Kafka hop in a tight loop, p50, ms", |round| Some(round.limits.as_ref()?.broker.hop.p50_ms)),
    ("one commit in a tight loop, p50, ms", |round| Some(round.limits.as_ref()?.commits.alone.p50_ms)),
    ("one Kafka hop, 100 in a second, p50, ms", |round| Some(round.limits_low.as_ref()?.hop.p50_ms)),
    ("one commit, 100 in a second, p50, ms", |round| Some(round.limits_low.as_ref()?.commit.p50_ms)),
    ("placed to final at 100 orders/s, p50, ms", |round| Some(round.latency_low.as_ref()?.done.p50_ms)),
    ("placed to final at 100 orders/s, p99, ms", |round| Some(round.latency_low.as_ref()?.done.p99_ms)),
    ("placed to final at half load, p50, ms", |round| Some(round.latency_half.as_ref()?.done.p50_ms)),
];

/// Events a second of pgbench with inventory-service's rows, so many in a transaction.
fn of_batches(round: &Round, n: usize) -> Option<f64> {
    let found = round.limits.as_ref()?.small_batches.iter().find(|batched| batched.n == n)?;
    Some(found.events_per_second)
}

fn rates(text: &mut String, results: &Results) {
    let _ = writeln!(text, "## Measured\n\n| figure | median | lowest | highest |\n|---|---|---|---|");
    let mut line = |name: &str, values: &[f64]| {
        if let Some((middle, (low, high))) = median(values).zip(spread(values)) {
            let digits = if middle < 100.0 { 2 } else { 0 };
            let _ = writeln!(text, "| {name} | {middle:.digits$} | {low:.digits$} | {high:.digits$} |");
        }
    };
    for (name, rate) in RATES {
        line(name, &results.rounds.iter().filter_map(rate).collect::<Vec<_>>());
    }
    for service in ["inventory-service", "payment-service", "order-service", "notification-service"] {
        line(&format!("drain of {service}, events/s"), &drains_of(results, service));
    }
    for (stage, p50_ms) in Stages::NAMED {
        let of_round = |round: &Round| Some(p50_ms(&round.latency_low.as_ref()?.stages));
        let values: Vec<_> = results.rounds.iter().filter_map(of_round).collect();
        line(&format!("at 100 orders/s, p50, ms: {stage}"), &values);
    }
    text.push('\n');
}

/// Events a second of a consumer's drain in each round.
fn drains_of(results: &Results, service: &str) -> Vec<f64> {
    let of_round = |round: &Round| round.drain.as_ref()?.found.events_per_second(service);
    results.rounds.iter().filter_map(of_round).collect()
}

fn counts(text: &mut String, results: &Results) {
    let Some(run) = &results.counts else { return };
    let counts = &run.per_order;
    let events = run.events_per_order();
    let _ = writeln!(
        text,
        "## For each order\n\n{events:.1} events, {:.2} transactions, {:.2} statements, {:.3} flushes, {:.0} bytes of WAL, \
         {:.2} requests to brokers (a run in which statements are counted, which costs a little).\n",
        counts.transactions,
        counts.statements,
        counts.flushes,
        counts.wal_bytes,
        run.requests_per_order.total(),
    );
    let _ = writeln!(text, "The dearest statements, for 1,000 orders:\n\n| ms | calls | rows | |\n|---|---|---|---|");
    for statement in run.statements.iter().take(15) {
        let Statement { of, text: query, calls, rows, milliseconds } = statement;
        let query: String = query.chars().take(90).collect::<String>().replace('|', "\\|");
        let _ = writeln!(text, "| {milliseconds:.1} | {calls:.0} | {rows:.0} | {of}: `{query}` |");
    }
    text.push('\n');
}

fn cpu(text: &mut String, results: &Results) {
    let runs: Vec<_> = results.rounds.iter().filter_map(|round| round.end_to_end.as_ref()).collect();
    let Some(first) = runs.first() else { return };
    let _ = writeln!(
        text,
        "## CPU seconds for 1,000 orders, end to end\n\nBeside what the roofline counts of it (the request, the rows in batches of 500, the \
         records in batches as large as the suite's), and what plain programs need for the gateway's calls and the mails. Of the \
         services nothing else is counted.\n\n\
         | | median | in the roofline | calls and mails |\n|---|---|---|---|"
    );
    for name in first.cpu_per_thousand.0.keys() {
        let seconds: Vec<f64> = runs.iter().filter_map(|run| run.cpu_per_thousand.0.get(name).copied()).collect();
        let Some(middle) = median(&seconds) else { continue };
        let column = |counted: fn(&str, &Roofline) -> Option<f64>| {
            let found: Vec<f64> = results.rounds.iter().filter_map(|round| counted(name, &round.roofline()?)).collect();
            median(&found).map_or_else(|| "-".to_owned(), |seconds| format!("{:.3}", 1_000.0 * seconds))
        };
        let _ = writeln!(text, "| {name} | {middle:.3} | {} | {} |", column(counted), column(counted_of_effects));
    }
    text.push('\n');
}

/// The CPU seconds that the roofline counts of an order for what runs under this name.
fn counted(name: &str, roofline: &Roofline) -> Option<f64> {
    match name {
        "order-service" => Some(roofline.http),
        "postgres" => Some(roofline.rows),
        "kafka" => Some(roofline.broker),
        _ => None,
    }
}

/// What plain programs need for an order's calls and mails, under the names of those that do them.
fn counted_of_effects(name: &str, roofline: &Roofline) -> Option<f64> {
    match name {
        "payment-service" => Some(roofline.calls),
        "sandbox-gateway" => Some(roofline.answers),
        "notification-service" => Some(roofline.mails),
        _ => None,
    }
}

fn ablations(text: &mut String, results: &Results) {
    let Some(Some(whole)) = results.ablations.first() else { return };
    let at = other_commit(results, results.ablations_provenance.as_ref());
    let _ = writeln!(text, "## Without\n\nOne thing switched off, once{at}.\n\n| | orders/s | of all |\n|---|---|---|");
    for ((name, settings), run) in ABLATIONS.iter().zip(&results.ablations) {
        let Some(run) = run else { continue };
        let settings: Vec<String> = settings.iter().map(|(name, value)| format!("`{name}={value}`")).collect();
        let settings = if settings.is_empty() { String::new() } else { format!(" ({})", settings.join(", ")) };
        let (rate, share) = (run.orders_per_second, run.orders_per_second / whole.orders_per_second);
        let _ = writeln!(text, "| {name}{settings} | {rate:.0} | {share:.2} |");
    }
    text.push('\n');
}

/// Says so where a part was measured at another commit than the rest.
fn other_commit(results: &Results, provenance: Option<&Provenance>) -> String {
    let other = provenance.filter(|provenance| provenance.commit != results.provenance.commit);
    other.map_or_else(String::new, |other| format!(" (at commit {})", other.commit))
}

fn soak(text: &mut String, results: &Results) {
    let Some(run) = &results.soak else { return };
    let at = other_commit(results, results.soak_provenance.as_ref());
    let minutes: Vec<String> =
        run.final_per_second.chunks_exact(60).map(|minute| minute.iter().sum::<usize>().to_string()).collect();
    let tenth = run.resident_mb.len().div_ceil(10).max(1);
    let memory: Vec<String> = run.resident_mb.iter().step_by(tenth).map(|mb| format!("{mb:.0}")).collect();
    let _ = writeln!(
        text,
        "## Soak\n\nAt {:.0} orders/s{at}: orders that became final in each minute: {}. Resident memory of the four services, from the \
         first to the last minute, MB: {}. Violated invariants: {}.\n",
        run.rate,
        minutes.join(", "),
        memory.join(", "),
        run.violations
    );
}

fn spring(text: &mut String, results: &Results) {
    let Some(provenance) = &results.spring_provenance else { return };
    if results.spring.is_empty() {
        return;
    }
    let at = other_commit(results, Some(&provenance.run));
    let _ = writeln!(
        text,
        "## Beside Spring\n\nTwo of the services as they are written with Spring Boot ([bench/spring](../bench/spring/README.md)), on the same \
         servers, tables, topics and durability ({}, at most {HEAP_MB} MB of heap), once warm; the median of {} rounds{at}.\n\n{}",
        provenance.jvm,
        results.spring.len(),
        beside_spring(&results.spring)
    );
}

fn recovery(text: &mut String, results: &Results) {
    let Some(runs) = &results.recovery else { return };
    let at = other_commit(results, results.recovery_provenance.as_ref());
    let _ = writeln!(
        text,
        "## After SIGKILL\n\nAt 200 orders/s, started again at once{at}.\n\n\
         | killed | answers again after, s | caught up after, s | longest silence, s |\n|---|---|---|---|"
    );
    for Recovery { killed, away_secs, caught_up_secs, silence_secs, .. } in runs {
        let _ = writeln!(text, "| {killed} | {away_secs:.1} | {caught_up_secs:.1} | {silence_secs:.1} |");
    }
    text.push('\n');
}
