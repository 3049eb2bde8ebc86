//! What is printed of single runs, and of the smoke run.

use std::fmt::Write as _;

use crate::measure::histogram::Percentiles;
use crate::measure::postgres::{DatabaseCounts, Statement};
use crate::measure::{CpuSeconds, Requests};
use crate::scenarios::{Drains, EndToEnd, Latency, Stages};

/// What `bench smoke` prints.
pub fn smoke(whole: &EndToEnd, batched: &Drains, single: &Drains) -> String {
    let build =
        if cfg!(debug_assertions) { "development build: seconds are not those of a release" } else { "release build" };
    let mut text = format!(
        "{} orders, {} events, {} violations ({build})\nCPU seconds for 1,000 orders: {:.3} in all;",
        whole.orders,
        whole.events,
        whole.violations,
        whole.cpu_per_thousand.total(),
    );
    for (name, seconds) in &whole.cpu_per_thousand.0 {
        let _ = write!(text, " {name} {seconds:.3}");
    }
    text.push_str("\nevents drained, adaptive batches / one event per transaction:");
    for (with, without) in batched.drains.iter().zip(&single.drains) {
        let _ = write!(text, " {} {:.1}", with.service, with.events_per_second / without.events_per_second);
    }
    text.push('\n');
    text
}

/// What one run came to, with its dearest statements.
pub fn attempted(found: &EndToEnd) -> String {
    let EndToEnd { orders, seconds, orders_per_second, events, per_order, resident_mb, .. } = found;
    let mut text = format!(
        "{orders} orders in {seconds:.2} s: {orders_per_second:.0} orders/s, {events} events, {} violations\n",
        found.violations,
    );
    costs(&mut text, &found.cpu_per_thousand, &found.requests_per_order);
    let _ = writeln!(text, "resident: {:.0} MB idle, {:.0} MB under load", resident_mb.0, resident_mb.1);
    database(&mut text, per_order, &found.statements);
    text
}

/// What one run at a rate came to.
pub fn paced(found: &Latency) -> String {
    let mut text = format!("{} orders/s, {} violations\n", found.rate, found.violations);
    for (what, times) in [("placed to taken", &found.taken), ("placed to final", &found.done)] {
        let Percentiles { p50_ms, p95_ms, p99_ms, max_ms, .. } = times;
        let _ = writeln!(text, "{what}, ms: p50 {p50_ms:.1}, p95 {p95_ms:.1}, p99 {p99_ms:.1}, max {max_ms:.1}");
    }
    for (stage, p50_ms) in Stages::NAMED {
        let p50_ms = p50_ms(&found.stages);
        let _ = writeln!(text, "  {stage:<54}{p50_ms:>6.2}");
    }
    costs(&mut text, &found.cpu_per_thousand, &found.requests_per_order);
    database(&mut text, &found.per_order, &found.statements);
    text
}

fn database(text: &mut String, per_order: &DatabaseCounts, statements: &[Statement]) {
    let DatabaseCounts { transactions, statements: counted, flushes, wal_bytes } = per_order;
    let _ = writeln!(
        text,
        "for each order: {transactions:.2} transactions, {counted:.2} statements, {flushes:.3} flushes, \
         {wal_bytes:.0} bytes of WAL",
    );
    if !statements.is_empty() {
        let _ = writeln!(text, "{:>9}{:>9}{:>9}  statements, for 1,000 orders", "ms", "calls", "rows");
    }
    for statement in statements {
        let Statement { of, text: query, calls, rows, milliseconds } = statement;
        let _ = writeln!(text, "{milliseconds:>9.2}{calls:>9.1}{rows:>9.0}  {of}: {query}");
    }
}

fn costs(text: &mut String, cpu: &CpuSeconds, requests: &Requests) {
    let _ = writeln!(text, "CPU seconds for 1,000 orders: {:.3}", cpu.total());
    for (name, seconds) in &cpu.0 {
        let _ = writeln!(text, "  {name:<24}{seconds:>8.3}");
    }
    let _ = writeln!(text, "requests to brokers for each order: {:.2}", requests.total());
    for (kind, count) in &requests.0 {
        let _ = writeln!(text, "  {kind:<24}{count:>8.3}");
    }
}
