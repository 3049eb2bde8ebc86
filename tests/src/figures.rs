//! The figures of docs/reliability.md, added up from the reports that `make chaos` leaves. Pure, but for [`update`].

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use serde::Deserialize;

/// Between these lines the page is generated.
pub const BEGIN: &str = "<!-- figures:begin -->";
/// See [`BEGIN`].
pub const END: &str = "<!-- figures:end -->";

/// What counts of a report; it says more.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Run {
    /// The seed that replays it.
    pub seed: u64,
    /// The length of the load.
    pub minutes: u64,
    /// What was built.
    pub commit: String,
    /// Faults that were carried out, by kind.
    pub faults: BTreeMap<String, u64>,
    /// Orders in a final state.
    pub orders_final: u64,
    /// SIGKILLs of services.
    pub sigkills: u64,
    /// Records that were delivered again.
    pub redeliveries: u64,
    /// Records on retry tiers.
    pub retries: u64,
    /// Records on dead-letter topics.
    pub dead_letters: u64,
    /// Broken promises.
    pub violations: u64,
}

/// Adds up every report in `reports` and writes the figures into the page; how many reports there were.
///
/// # Errors
/// When a report or the page can't be read, there is no report, or the page has no place for figures.
pub fn update(reports: &Path, page: &Path) -> Result<usize> {
    let runs = read(reports)?;
    let text = fs::read_to_string(page).with_context(|| format!("reading {}", page.display()))?;
    fs::write(page, with_figures(&text, &runs)?).with_context(|| format!("writing {}", page.display()))?;
    Ok(runs.len())
}

fn read(folder: &Path) -> Result<Vec<Run>> {
    let mut runs = Vec::new();
    for entry in fs::read_dir(folder).with_context(|| format!("reading {}: `make chaos` makes it", folder.display()))? {
        let path = entry?.path();
        if path.extension().is_none_or(|extension| extension != "json") {
            continue;
        }
        let text = fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
        runs.push(serde_json::from_str(&text).with_context(|| format!("{} is no report", path.display()))?);
    }
    ensure!(!runs.is_empty(), "{} holds no report: `make chaos` makes one", folder.display());
    Ok(runs)
}

/// The page with these runs' figures in the place of the old ones.
///
/// # Errors
/// When the page has no place for them.
pub fn with_figures(page: &str, runs: &[Run]) -> Result<String> {
    let (before, rest) = page.split_once(BEGIN).with_context(|| format!("the page has no line {BEGIN}"))?;
    let (_, after) = rest.split_once(END).with_context(|| format!("the page has no line {END}"))?;
    Ok(format!("{before}{BEGIN}\n{}{END}{after}", figures(runs)?))
}

fn figures(runs: &[Run]) -> Result<String> {
    let mut runs = runs.to_vec();
    runs.sort_by(|a, b| (a.seed, a.minutes, &a.commit).cmp(&(b.seed, b.minutes, &b.commit)));
    let sum = |of: fn(&Run) -> u64| grouped(runs.iter().map(of).sum());
    let mut text = String::new();
    writeln!(
        text,
        "{} chaos runs, {} minutes of load, {} final orders, {} SIGKILLs, {} records delivered again, {} retries, {} dead \
         letters: **{} violations**.\n",
        runs.len(),
        sum(|run| run.minutes),
        sum(|run| run.orders_final),
        sum(|run| run.sigkills),
        sum(|run| run.redeliveries),
        sum(|run| run.retries),
        sum(|run| run.dead_letters),
        sum(|run| run.violations),
    )?;
    let mut faults: BTreeMap<&str, u64> = BTreeMap::new();
    for (kind, count) in runs.iter().flat_map(|run| &run.faults) {
        *faults.entry(kind).or_default() += count;
    }
    let faults: Vec<String> =
        faults.iter().map(|(kind, count)| format!("{} {}", grouped(*count), kind.replace('_', " "))).collect();
    writeln!(text, "Faults: {}.\n", faults.join(", "))?;
    writeln!(
        text,
        "| seed | minutes | commit | final orders | SIGKILLs | again | retries | dead letters | violations |"
    )?;
    writeln!(text, "|--:|--:|---|--:|--:|--:|--:|--:|--:|")?;
    for run in &runs {
        let commit: String = run.commit.chars().take(7).collect();
        let numbers = [run.orders_final, run.sigkills, run.redeliveries, run.retries, run.dead_letters, run.violations];
        let numbers = numbers.map(grouped).join(" | ");
        writeln!(text, "| {} | {} | {commit} | {numbers} |", run.seed, run.minutes)?;
    }
    Ok(text)
}

/// `1,234,567`.
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(seed: u64) -> Run {
        Run {
            seed,
            minutes: 5,
            commit: "0123456789abcdef".to_owned(),
            faults: [("service_kill".to_owned(), 6), ("broker_kill".to_owned(), seed)].into(),
            orders_final: 2_500,
            sigkills: 6,
            redeliveries: 80,
            retries: 40,
            dead_letters: 4,
            violations: 0,
        }
    }

    #[test]
    fn runs_are_added_up_in_the_place_of_the_old_figures() {
        let page = format!("# Title\n\n{BEGIN}\nold\n{END}\n\nThe end.\n");
        let page = with_figures(&page, &[run(2), run(1)]).expect("a place");
        assert_eq!(
            page,
            "# Title\n\n<!-- figures:begin -->\n\
             2 chaos runs, 10 minutes of load, 5,000 final orders, 12 SIGKILLs, 160 records delivered again, 80 retries, \
             8 dead letters: **0 violations**.\n\n\
             Faults: 3 broker kill, 12 service kill.\n\n\
             | seed | minutes | commit | final orders | SIGKILLs | again | retries | dead letters | violations |\n\
             |--:|--:|---|--:|--:|--:|--:|--:|--:|\n\
             | 1 | 5 | 0123456 | 2,500 | 6 | 80 | 40 | 4 | 0 |\n\
             | 2 | 5 | 0123456 | 2,500 | 6 | 80 | 40 | 4 | 0 |\n\
             <!-- figures:end -->\n\nThe end.\n"
        );
        assert_eq!(with_figures(&page, &[run(2), run(1)]).expect("a place"), page, "again changes nothing");
        assert!(with_figures("no place", &[run(1)]).is_err());
    }

    #[test]
    fn the_page_has_a_place_for_figures() {
        let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/reliability.md");
        let page = fs::read_to_string(page).expect("the page");
        assert!(with_figures(&page, &[run(1)]).is_ok());
    }

    #[test]
    fn reports_are_read_from_their_folder_and_none_is_an_error() {
        let folder = testkit::Scratch::new("figures").expect("a folder");
        assert!(read(folder.path()).is_err(), "there is none");
        let report = r#"{"seed":7,"minutes":5,"commit":"abc","faults":{"broker_kill":1},"orders_final":10,"sigkills":5,
            "redeliveries":50,"retries":10,"dead_letters":3,"violations":0,"more":"is skipped"}"#;
        fs::write(folder.path().join("7.json"), report).expect("written");
        fs::write(folder.path().join("7.log"), "no report").expect("written");
        let runs = read(folder.path()).expect("one report");
        assert_eq!((runs.len(), runs[0].seed, runs[0].faults["broker_kill"]), (1, 7, 1));
    }
}
