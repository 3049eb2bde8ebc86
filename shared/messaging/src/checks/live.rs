//! What the live broker has: partitions, copies and retention of the topics that a group reads and writes.
//!
//! A topic that is missing is waited for, since a deployment may make topics and start services in any order; one that is
//! there and wrong is refused. Settings that the broker doesn't tell (an ACL without `DescribeConfigs`) are not checked,
//! and that is logged.

use std::collections::BTreeMap;

use crate::settings::Settings;

const DAY_MS: i64 = 24 * 60 * 60 * 1_000;

/// A topic on the broker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Listed {
    /// Its physical name.
    pub(crate) name: String,
    /// Its partitions.
    pub(crate) partitions: usize,
    /// Copies of each.
    pub(crate) replication: usize,
}

/// What the broker tells of a topic's settings.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Config {
    /// `retention.ms`; negative keeps records for ever.
    pub(crate) retention_ms: Option<i64>,
    /// `min.insync.replicas`.
    pub(crate) min_insync: Option<usize>,
}

/// Why a group can't begin.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Complaint {
    /// It will be looked at again.
    Waits(String),
    /// It is given up.
    Refused(String),
}

/// The physical names of the topics that the group reads and writes by itself: sources, declared tiers, dead letters.
pub(crate) struct Wanted {
    pub(crate) sources: Vec<String>,
    pub(crate) tiers: Vec<String>,
    pub(crate) dead: String,
}

impl Wanted {
    pub(crate) fn of(settings: &Settings, sources: &[&str]) -> Self {
        use contracts::topics::{dead_letter, retry};
        let tiers = 0..=settings.retry_delays.len();
        Self {
            sources: sources.iter().map(|source| settings.physical(source)).collect(),
            tiers: tiers.map(|tier| settings.physical(&retry(&settings.service, tier))).collect(),
            dead: settings.physical(&dead_letter(&settings.service)),
        }
    }

    pub(crate) fn all(&self) -> impl Iterator<Item = &String> {
        self.sources.iter().chain(&self.tiers).chain(std::iter::once(&self.dead))
    }
}

/// Whether the topics are there, with partitions that keep a key's events together.
pub(crate) fn partitions(settings: &Settings, wanted: &Wanted, listed: &[Listed]) -> Result<(), Complaint> {
    let count = |name: &String| listed.iter().find(|topic| topic.name == *name).map(|topic| topic.partitions);
    let missing: Vec<&str> = wanted.all().filter(|name| count(name).is_none()).map(String::as_str).collect();
    if !missing.is_empty() {
        let prefix = match settings.prefix.as_str() {
            "" => String::new(),
            prefix => format!(" TOPIC_PREFIX={prefix}"),
        };
        // A broker doesn't list what its user has no rights on.
        let what = if settings.properties.names("security.protocol") {
            "missing, or this user may not see them"
        } else {
            "missing"
        };
        return Err(Complaint::Waits(format!(
            "topics are {what}: {}; make them: KAFKA_BOOTSTRAP={}{prefix} suite topics apply{}",
            missing.join(", "),
            settings.bootstrap,
            profile(settings, wanted, listed)
        )));
    }
    let least = wanted.sources.iter().filter_map(|name| Some((count(name)?, name))).min();
    let most = wanted.sources.iter().filter_map(|name| Some((count(name)?, name))).max();
    let (Some((least, fewest)), Some((most, source))) = (least, most) else { return Ok(()) };
    if least != most {
        return Err(Complaint::Refused(format!(
            "topic {fewest} has {least} partitions and {source} has {most}: events of one order would meet in different \
             lanes; give all source topics the same number (partitions in TOPICS_FILE): drain, delete and make {fewest} anew"
        )));
    }
    for tier in &wanted.tiers {
        let partitions = count(tier).unwrap_or_default();
        if partitions < most {
            return Err(Complaint::Refused(format!(
                "topic {tier} has {partitions} partitions, its source {source} has {most}: retries of several lanes would \
                 wait behind one another; it needs at least as many: drain it, delete it and run `suite topics apply`"
            )));
        }
    }
    Ok(())
}

/// Which profile the missing topics should be made with: that of the ones which are there, else who reads it must know.
fn profile(settings: &Settings, wanted: &Wanted, listed: &[Listed]) -> &'static str {
    let there = listed.iter().filter(|topic| wanted.all().any(|name| *name == topic.name));
    match there.map(|topic| topic.replication).min() {
        Some(0 | 1) => "",
        Some(_) => " --profile cluster",
        None if is_loopback(&settings.bootstrap) => "",
        None => " (on three brokers: --profile cluster)",
    }
}

/// Looks at copies and retention. Answers with warnings.
pub(crate) fn durability(
    settings: &Settings,
    wanted: &Wanted,
    listed: &[Listed],
    configs: &BTreeMap<String, Config>,
) -> Result<Vec<String>, Complaint> {
    let config = |name: &String| configs.get(name).copied().unwrap_or_default();
    let mut warnings = Vec::new();
    let copies = |name: &String| listed.iter().find(|topic| topic.name == *name).map_or(0, |topic| topic.replication);
    for name in wanted.all() {
        if let Some(least) = config(name).min_insync.filter(|least| *least > copies(name)) {
            return Err(Complaint::Refused(format!(
                "topic {name} has min.insync.replicas = {least} and {} copies, so nothing can be written to it; lower the \
                 one or raise the other",
                copies(name)
            )));
        }
    }
    if !is_loopback(&settings.bootstrap) {
        let single: Vec<&str> = wanted.all().filter(|name| copies(name) == 1).map(String::as_str).collect();
        if !single.is_empty() {
            warnings.push(format!(
                "one copy only of {}: a lost broker loses events; give them three (kafka-reassign-partitions), then run \
                 `suite topics apply --profile cluster`",
                single.join(", ")
            ));
        }
        let weak = |name: &&String| copies(name) > 1 && config(name).min_insync == Some(1);
        let weak: Vec<&str> = wanted.all().filter(weak).map(String::as_str).collect();
        if !weak.is_empty() {
            warnings.push(format!(
                "min.insync.replicas = 1 of {}: acks=all then waits for one copy; `suite topics apply --profile cluster` \
                 sets 2",
                weak.join(", ")
            ));
        }
    }
    retention(settings, wanted, config)?;
    Ok(warnings)
}

fn retention(settings: &Settings, wanted: &Wanted, config: impl Fn(&String) -> Config) -> Result<(), Complaint> {
    let longest = |names: &[String]| {
        names.iter().filter_map(|name| Some((config(name).retention_ms?, name.clone()))).collect::<Vec<_>>()
    };
    let stages = [longest(&wanted.sources), longest(&wanted.tiers), longest(std::slice::from_ref(&wanted.dead))];
    if let Some((_, name)) = stages.iter().flatten().find(|(retention_ms, _)| *retention_ms < 0) {
        return Err(Complaint::Refused(format!(
            "topic {name} keeps records for ever (retention.ms = -1), and no inbox remembers so long: an old event could run \
             twice; run `suite topics apply`, or set a retention within INBOX_DAYS ({})",
            settings.inbox_days
        )));
    }
    let longest: Vec<(i64, String)> = stages.into_iter().filter_map(|stage| stage.into_iter().max()).collect();
    let way_days = longest.iter().map(|(ms, _)| ms.saturating_add(DAY_MS - 1) / DAY_MS).sum::<i64>();
    if way_days > i64::from(settings.inbox_days) {
        let parts: Vec<String> =
            longest.iter().map(|(ms, name)| format!("{name} {}", ms.saturating_add(DAY_MS - 1) / DAY_MS)).collect();
        return Err(Complaint::Refused(format!(
            "INBOX_DAYS can't be used: {} days are fewer than the {way_days} that the live topics keep an event ({}), so it \
             could run twice; set it to {way_days} or more, or run `suite topics apply`",
            settings.inbox_days,
            parts.join(" + ")
        )));
    }
    Ok(())
}

/// Whether every broker named is on this machine.
fn is_loopback(bootstrap: &str) -> bool {
    bootstrap.split(',').all(|server| {
        let host = server.trim().rsplit_once(':').map_or(server.trim(), |(host, _)| host);
        let host = host.rsplit_once("//").map_or(host, |(_, host)| host).trim_matches(['[', ']']);
        host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback())
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::properties::KafkaProperties;
    use std::time::Duration;

    fn settings(bootstrap: &str) -> Settings {
        Settings { prefix: "x.".to_owned(), retry_delays: vec![Duration::ZERO], ..Settings::new("pay", bootstrap) }
    }

    fn listed(partitions: &[usize; 5], replication: usize) -> Vec<Listed> {
        ["x.orders", "x.stock", "x.pay.retry.0", "x.pay.retry.1", "x.pay.dlt"]
            .into_iter()
            .zip(partitions)
            .map(|(name, partitions)| Listed { name: name.to_owned(), partitions: *partitions, replication })
            .collect()
    }

    fn judge(bootstrap: &str, replication: usize, configs: &[(&str, i64, usize)]) -> Result<Vec<String>, Complaint> {
        let settings = settings(bootstrap);
        let config = |retention_ms, least| Config { retention_ms: Some(retention_ms), min_insync: Some(least) };
        let configs = configs.iter().map(|(name, ms, least)| ((*name).to_owned(), config(*ms, *least))).collect();
        let wanted = Wanted::of(&settings, &["orders", "stock"]);
        durability(&settings, &wanted, &listed(&[4; 5], replication), &configs)
    }

    #[test]
    fn a_missing_topic_is_waited_for_with_the_command_that_makes_it() {
        let settings = settings("k:9092");
        let some: Vec<Listed> = listed(&[4; 5], 1).into_iter().take(4).collect();
        let complaint = partitions(&settings, &Wanted::of(&settings, &["orders", "stock"]), &some);
        let text =
            "topics are missing: x.pay.dlt; make them: KAFKA_BOOTSTRAP=k:9092 TOPIC_PREFIX=x. suite topics apply";
        assert_eq!(complaint, Err(Complaint::Waits(text.to_owned())));

        let properties = KafkaProperties::parse("security.protocol=ssl").expect("allowed");
        let settings = Settings { properties, ..settings };
        let Err(Complaint::Waits(hidden)) = partitions(&settings, &Wanted::of(&settings, &["orders"]), &some) else {
            panic!("waits")
        };
        assert!(hidden.starts_with("topics are missing, or this user may not see them: x.pay.dlt;"), "{hidden}");
    }

    #[test]
    fn the_command_that_makes_a_missing_topic_names_the_profile_of_its_neighbours() {
        let told = |bootstrap: &str, there: &[Listed]| {
            let settings = settings(bootstrap);
            let Err(Complaint::Waits(said)) = partitions(&settings, &Wanted::of(&settings, &["orders"]), there) else {
                panic!("waits")
            };
            said.split_once(" suite topics apply").expect("the command").1.to_owned()
        };
        let some = |replication| listed(&[4; 5], replication).into_iter().take(3).collect::<Vec<_>>();
        assert_eq!(told("k:9092", &some(3)), " --profile cluster");
        assert_eq!(told("k:9092", &some(1)), "");
        // A topic of somebody else is no neighbour.
        let others = [Listed { name: "weather".to_owned(), partitions: 1, replication: 3 }];
        assert_eq!(told("k:9092", &others), " (on three brokers: --profile cluster)");
        assert_eq!(told("localhost:9092", &others), "");
    }

    #[test]
    fn fewer_partitions_on_a_retry_topic_or_unequal_sources_are_refused() {
        let settings = settings("k:9092");
        let wanted = Wanted::of(&settings, &["orders", "stock"]);
        let judge = |counts: &[usize; 5]| partitions(&settings, &wanted, &listed(counts, 1));
        assert_eq!(judge(&[4; 5]), Ok(()));
        assert_eq!(judge(&[4, 4, 4, 8, 1]), Ok(()), "more is no harm, and dead letters keep no order");
        let Err(Complaint::Refused(few)) = judge(&[4, 4, 4, 2, 4]) else { panic!("refused") };
        assert!(few.starts_with("topic x.pay.retry.1 has 2 partitions, its source x.stock has 4"), "{few}");
        let Err(Complaint::Refused(unequal)) = judge(&[4, 3, 4, 4, 4]) else { panic!("refused") };
        assert!(unequal.starts_with("topic x.stock has 3 partitions and x.orders has 4"), "{unequal}");
    }

    #[test]
    fn one_copy_away_from_this_machine_is_a_warning() {
        let one = judge("kafka.prod:9092", 1, &[]).expect("allowed");
        assert!(one[0].starts_with("one copy only of x.orders, "), "{one:?}");
        assert_eq!(judge("kafka.prod:9092", 3, &[]), Ok(Vec::new()));
        for here in ["localhost:9092", "127.0.0.1:9092,127.0.0.2:9092", "[::1]:9092", "PLAINTEXT://127.0.0.1:9"] {
            assert_eq!(judge(here, 1, &[]), Ok(Vec::new()), "{here}");
        }
        assert!(!is_loopback("localhost:9092,kafka.prod:9092"));
    }

    #[test]
    fn copies_that_do_not_have_to_agree_are_a_warning_and_more_than_there_are_a_refusal() {
        let weak = judge("k:9092", 3, &[("x.orders", DAY_MS, 1)]).expect("allowed");
        assert!(weak[0].starts_with("min.insync.replicas = 1 of x.orders:"), "{weak:?}");
        let Err(Complaint::Refused(never)) = judge("k:9092", 1, &[("x.orders", DAY_MS, 2)]) else { panic!("refused") };
        assert!(never.starts_with("topic x.orders has min.insync.replicas = 2 and 1 copies"), "{never}");
    }

    #[test]
    fn live_topics_that_keep_events_longer_than_the_inbox_are_refused() {
        let kept = |source, retry, dead| {
            let days = [("x.orders", source), ("x.pay.retry.1", retry), ("x.pay.dlt", dead)];
            judge("localhost:9092", 1, &days.map(|(name, days)| (name, days * DAY_MS, 1)))
        };
        assert_eq!(kept(7, 9, 14), Ok(Vec::new()));
        let Err(Complaint::Refused(long)) = kept(7, 10, 14) else { panic!("refused") };
        assert!(
            long.starts_with("INBOX_DAYS can't be used: 30 days are fewer than the 31 that the live topics"),
            "{long}"
        );
        assert!(long.contains("(x.orders 7 + x.pay.retry.1 10 + x.pay.dlt 14)"), "{long}");
        let Err(Complaint::Refused(ever)) = kept(7, 7, -1) else { panic!("refused") };
        assert!(ever.starts_with("topic x.pay.dlt keeps records for ever"), "{ever}");
    }
}
