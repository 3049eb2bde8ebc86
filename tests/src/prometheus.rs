//! A real Prometheus over a running suite, with the project's own configuration and rules, and what its HTTP API tells.
//!
//! [`Api`] and [`every_expression_has_data`] ask any Prometheus, whoever started it: that of [`Prometheus::start`] or one
//! in a container.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde::Deserialize;
use serde_json::Value;
use testkit::{Scratch, ServiceOptions, ServiceProcess, eventually, free_port};

use crate::target::http_client;
use crate::{BOUND, Service, Target};

/// The repository's folder of that name.
pub fn deploy(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy").join(name)
}

/// A Prometheus of a test's own.
#[derive(Debug)]
pub struct Prometheus {
    /// What it tells.
    pub api: Api,
    _process: ServiceProcess,
    // Last, so that the program has ended when it goes.
    _folder: Scratch,
}

impl Prometheus {
    /// Starts one that scrapes this suite's services every second, with the rules of `deploy/prometheus/alerts.yml` in
    /// which nothing but the times behind `for` is changed; waits until it has scraped all of them.
    ///
    /// # Errors
    /// When it is not installed, refuses the files, or can't scrape.
    pub async fn start(target: &Target) -> Result<Self> {
        let folder = Scratch::new("prometheus")?;
        let (config, rules) = (folder.path().join("prometheus.yml"), folder.path().join("alerts.yml"));
        std::fs::write(&config, configuration(target)?)?;
        std::fs::write(&rules, without_waiting(&std::fs::read_to_string(deploy("prometheus/alerts.yml"))?))?;
        let address = format!("127.0.0.1:{}", free_port()?);
        let arguments = [
            format!("--config.file={}", config.display()),
            format!("--storage.tsdb.path={}", folder.path().join("data").display()),
            format!("--web.listen-address={address}"),
        ];
        let mut process = ServiceProcess::spawn(ServiceOptions {
            name: "prometheus".to_owned(),
            program: program("PROMETHEUS", "prometheus")?,
            arguments: arguments.into(),
            environment: Vec::new(),
            log_file: folder.path().join("prometheus.log"),
        })?;
        process.wait_ready(&format!("http://{address}/-/ready"), BOUND).await?;
        let api = Api::new(format!("http://{address}"))?;
        eventually("Prometheus has scraped every service", BOUND, async || {
            let up = api.query("up == 1").await?;
            ensure!(up.len() == Service::ALL.len(), "{up:?}");
            Ok(())
        })
        .await?;
        Ok(Self { api, _process: process, _folder: folder })
    }
}

/// The project's configuration, with this suite's addresses and a scrape every second.
fn configuration(target: &Target) -> Result<String> {
    let mut text = std::fs::read_to_string(deploy("prometheus/prometheus.yml"))?;
    for (service, port) in Service::ALL.iter().zip(8080..) {
        let address = target.url(*service, 0).trim_start_matches("http://");
        text = replaced(&text, &format!("\"{}:{port}\"", service.name()), &format!("\"{address}\""))?;
    }
    for (setting, ours) in [("scrape_interval", "1s"), ("scrape_timeout", "1s"), ("evaluation_interval", "1s")] {
        let line = text.lines().find(|line| line.trim_start().starts_with(setting)).context("a global setting")?;
        let (line, with) = (line.to_owned(), format!("  {setting}: {ours}"));
        text = replaced(&text, &line, &with)?;
    }
    Ok(text)
}

fn replaced(text: &str, what: &str, with: &str) -> Result<String> {
    ensure!(text.matches(what).count() == 1, "{what} is not once in prometheus.yml");
    Ok(text.replace(what, with))
}

fn without_waiting(rules: &str) -> String {
    let line = |line: &str| match line.split_once("for: ") {
        Some((indent, _)) if indent.trim().is_empty() => format!("{indent}for: 0s\n"),
        _ => format!("{line}\n"),
    };
    rules.lines().map(line).collect()
}

/// A program that is named by a variable or lies in the path.
fn program(variable: &str, name: &str) -> Result<PathBuf> {
    if let Some(path) = std::env::var_os(variable) {
        return Ok(PathBuf::from(path));
    }
    let folders: OsString = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&folders).map(|folder| folder.join(name)).find(|path| path.is_file());
    found.with_context(|| {
        format!("{name} is not installed: `apt-get install prometheus` (or the like), or name it by {variable}")
    })
}

/// Has promtool check the configuration and its rules.
///
/// # Errors
/// With what promtool says, or when it is not installed.
pub fn check_configuration() -> Result<()> {
    let checked = Command::new(program("PROMTOOL", "promtool")?)
        .args(["check", "config"])
        .arg(deploy("prometheus/prometheus.yml"))
        .output()?;
    let said = [checked.stdout, checked.stderr].map(|text| String::from_utf8_lossy(&text).into_owned()).concat();
    ensure!(checked.status.success(), "{said}");
    Ok(())
}

/// A Prometheus's HTTP API.
#[derive(Debug, Clone)]
pub struct Api {
    url: String,
    http: reqwest::Client,
}

/// One series of an answer.
#[derive(Debug, Clone)]
pub struct Sample {
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// Its value; may be no number.
    pub value: f64,
}

/// An alert rule.
#[derive(Debug, Clone, Deserialize)]
pub struct Rule {
    /// Its name.
    pub name: String,
    /// `inactive`, `pending` or `firing`.
    pub state: String,
    /// Empty where it was evaluated without an error.
    #[serde(default, rename = "lastError")]
    pub error: String,
}

#[derive(Deserialize)]
struct Series {
    metric: BTreeMap<String, String>,
    value: (f64, String),
}

impl Api {
    /// The API at this address, without a slash at its end.
    ///
    /// # Errors
    /// When no client can be made.
    pub fn new(url: String) -> Result<Self> {
        Ok(Self { url, http: http_client()? })
    }

    /// Evaluates an expression now.
    ///
    /// # Errors
    /// When Prometheus refuses it, with its reason.
    pub async fn query(&self, expression: &str) -> Result<Vec<Sample>> {
        let data = self.get("query", &[("query", expression)]).await.with_context(|| expression.to_owned())?;
        let series: Vec<Series> = serde_json::from_value(data["result"].clone())?;
        let sample = |series: Series| Ok(Sample { labels: series.metric, value: series.value.1.parse()? });
        series.into_iter().map(sample).collect()
    }

    /// The alert rules.
    ///
    /// # Errors
    /// When they can't be read.
    pub async fn rules(&self) -> Result<Vec<Rule>> {
        let data = self.get("rules", &[("type", "alert")]).await?;
        let groups = data["groups"].as_array().context("groups")?;
        let rules = groups.iter().flat_map(|group| group["rules"].as_array().cloned().unwrap_or_default());
        rules.map(|rule| Ok(serde_json::from_value(rule)?)).collect()
    }

    /// The names of the alerts that are firing.
    ///
    /// # Errors
    /// When they can't be read, or a rule can't be evaluated.
    pub async fn firing(&self) -> Result<BTreeSet<String>> {
        let rules = self.rules().await?;
        if let Some(broken) = rules.iter().find(|rule| !rule.error.is_empty()) {
            bail!("{}: {}", broken.name, broken.error);
        }
        Ok(rules.into_iter().filter(|rule| rule.state == "firing").map(|rule| rule.name).collect())
    }

    async fn get(&self, what: &str, query: &[(&str, &str)]) -> Result<Value> {
        let answer = self.http.get(format!("{}/api/v1/{what}", self.url)).query(query).send().await?;
        let mut answer: Value = answer.json().await?;
        ensure!(answer["status"] == "success", "{}", answer["error"]);
        Ok(answer["data"].take())
    }
}

/// A panel's expression.
#[derive(Debug, Clone)]
pub struct Expression {
    /// Where it stands: dashboard and panel.
    pub place: String,
    /// What Grafana would ask, with its variables filled in.
    pub text: String,
}

/// Every expression of these dashboards.
///
/// # Errors
/// When a dashboard is none.
pub fn expressions(dashboards: &[Value]) -> Result<Vec<Expression>> {
    let mut found = Vec::new();
    for dashboard in dashboards {
        for panel in dashboard["panels"].as_array().context("panels")? {
            for target in panel["targets"].as_array().context("targets")? {
                let text = target["expr"].as_str().context("an expression")?;
                let text = text.replace("$__rate_interval", "1m").replace("$__range", "5m").replace("$group", ".+");
                ensure!(!text.contains('$'), "{text}: a variable that is not known here");
                found.push(Expression { place: format!("{}: {}", dashboard["title"], panel["title"]), text });
            }
        }
    }
    Ok(found)
}

/// The dashboards in `deploy/grafana/dashboards`.
///
/// # Errors
/// When one can't be read.
pub fn dashboards() -> Result<Vec<Value>> {
    let mut dashboards = Vec::new();
    for entry in std::fs::read_dir(deploy("grafana/dashboards"))? {
        let path = entry?.path();
        let text = std::fs::read_to_string(&path)?;
        dashboards.push(serde_json::from_str(&text).with_context(|| path.display().to_string())?);
    }
    Ok(dashboards)
}

/// Waits until every expression has returned at least one series with a number in it. Something must keep happening
/// meanwhile: a quantile of nothing is no number.
///
/// # Errors
/// When one is refused or has none within `bound`; it names them all.
pub async fn every_expression_has_data(api: &Api, mut expressions: Vec<Expression>, bound: Duration) -> Result<()> {
    eventually("every panel has data", bound, async || {
        let mut empty = Vec::new();
        for expression in &expressions {
            let samples = api.query(&expression.text).await?;
            if samples.iter().all(|sample| sample.value.is_nan()) {
                empty.push(expression.clone());
            }
        }
        let places: Vec<_> =
            empty.iter().map(|expression| format!("{}: {}", expression.place, expression.text)).collect();
        expressions = empty;
        ensure!(places.is_empty(), "no data:\n{}", places.join("\n"));
        Ok(())
    })
    .await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_waiting_times_of_rules_are_changed() {
        let rules = "- alert: A\n  expr: up == 0\n  for: 5m\n  labels:\n    text: \"for: ever\"\n";
        let changed = "- alert: A\n  expr: up == 0\n  for: 0s\n  labels:\n    text: \"for: ever\"\n";
        assert_eq!(without_waiting(rules), changed);
    }
}
