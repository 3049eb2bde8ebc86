//! What a service's `/metrics` serves, read as Prometheus reads it.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result, ensure};

use crate::{Service, Target};

/// One answer of `/metrics`.
#[derive(Debug, Clone, Default)]
pub struct Scrape {
    /// By the name of the metric, without the suffixes that a histogram's series have.
    pub families: BTreeMap<String, Family>,
}

/// One metric.
#[derive(Debug, Clone, Default)]
pub struct Family {
    /// `counter`, `gauge` or `histogram`.
    pub kind: String,
    /// The names of its labels, `le` left out.
    pub labels: BTreeSet<String>,
    /// Each line: its labels as written, and its value.
    pub series: Vec<(String, f64)>,
}

impl Scrape {
    /// Reads the text format.
    ///
    /// # Errors
    /// When a line is none of it.
    pub fn parse(text: &str) -> Result<Self> {
        let mut scrape = Self::default();
        for line in text.lines().filter(|line| !line.is_empty()) {
            if let Some(rest) = line.strip_prefix("# TYPE ") {
                let (name, kind) = rest.split_once(' ').with_context(|| line.to_owned())?;
                let known =
                    scrape.families.insert(name.to_owned(), Family { kind: kind.to_owned(), ..Family::default() });
                ensure!(known.is_none(), "{name} is told twice");
            } else if !line.starts_with('#') {
                scrape.series(line).with_context(|| format!("the line {line}"))?;
            }
        }
        Ok(scrape)
    }

    fn series(&mut self, line: &str) -> Result<()> {
        let (series, value) = line.rsplit_once(' ').context("has no value")?;
        let (name, labels) = match series.split_once('{') {
            Some((name, labels)) => (name, labels.strip_suffix('}').context("is not closed")?),
            None => (series, ""),
        };
        let base = ["_bucket", "_sum", "_count"].iter().find_map(|suffix| name.strip_suffix(suffix));
        let base = base.filter(|base| self.families.contains_key(*base)).unwrap_or(name);
        let family = self.families.get_mut(base).context("has no type")?;
        family.labels.extend(label_names(labels).filter(|label| label != "le"));
        family.series.push((format!("{name}{{{labels}}}"), value.parse()?));
        Ok(())
    }

    /// How many series there are.
    pub fn series_count(&self) -> usize {
        self.families.values().map(|family| family.series.len()).sum()
    }

    /// The sum of a metric's series whose labels hold all of these texts.
    pub fn sum(&self, name: &str, labels: &[&str]) -> f64 {
        let series = self.families.get(name).map_or(&[][..], |family| &family.series);
        let chosen = series.iter().filter(|(text, _)| labels.iter().all(|label| text.contains(label)));
        chosen.map(|(_, value)| value).sum()
    }
}

/// Values hold no `="`: they are names, states and numbers.
fn label_names(labels: &str) -> impl Iterator<Item = String> + '_ {
    let before = labels.split("=\"").map(|part| part.rsplit([',', '"']).next().unwrap_or_default().to_owned());
    let count = labels.matches("=\"").count();
    before.take(count)
}

impl Target {
    /// An instance's `/metrics`.
    ///
    /// # Errors
    /// When it can't be read.
    pub async fn metrics(&self, service: Service, instance: usize) -> Result<Scrape> {
        let answer = self.http.get(format!("{}/metrics", self.url(service, instance))).send().await?;
        ensure!(answer.status().is_success(), "/metrics of {}: {}", service.name(), answer.status());
        Scrape::parse(&answer.text().await?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "# HELP took Time\n# TYPE took histogram\ntook_bucket{route=\"/a,b\",le=\"0.1\"} 1\n\
        took_bucket{route=\"/a,b\",le=\"+Inf\"} 2\ntook_sum{route=\"/a,b\"} 0.3\ntook_count{route=\"/a,b\"} 2\n\
        # TYPE up_total counter\nup_total 3\n";

    #[test]
    fn names_kinds_labels_and_values_are_read() {
        let scrape = Scrape::parse(TEXT).expect("the text format");
        let took = &scrape.families["took"];
        assert_eq!((took.kind.as_str(), took.series.len()), ("histogram", 4));
        assert_eq!(took.labels.iter().collect::<Vec<_>>(), ["route"]);
        assert!((scrape.sum("up_total", &[]) - 3.0).abs() < f64::EPSILON);
        assert_eq!(scrape.series_count(), 5);
    }
}
