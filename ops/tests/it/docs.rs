//! README and ARCHITECTURE name files and tests, and show the saga's table: all of that is there.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

const DOCUMENTS: [&str; 3] = ["README.md", "ARCHITECTURE.md", "CHANGELOG.md"];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn read(path: &str) -> String {
    std::fs::read_to_string(root().join(path)).unwrap_or_else(|e| panic!("{path}: {e}"))
}

/// What stands between backquotes, or in the target of a link.
fn quoted(text: &str) -> impl Iterator<Item = &str> {
    let code = text.split('`').skip(1).step_by(2);
    let links = text.split("](").skip(1).filter_map(|rest| rest.split_once(')')).map(|(target, _)| target);
    code.chain(links)
}

/// Outside of code blocks.
fn prose(document: &str) -> String {
    document.split("```").step_by(2).collect()
}

#[test]
fn every_file_that_is_named_is_there() {
    const FOLDERS: [&str; 9] = [
        "order-service/",
        "payment-service/",
        "inventory-service/",
        "notification-service/",
        "shared/",
        "ops/",
        "deploy/",
        "tests/",
        ".ci/",
    ];
    let mut named = 0;
    for document in DOCUMENTS {
        for path in quoted(&prose(&read(document))).filter(|text| FOLDERS.iter().any(|folder| text.starts_with(folder)))
        {
            named += 1;
            assert!(root().join(path).exists(), "{document} names {path}");
        }
    }
    assert!(named > 50, "only {named} paths were found: does this test still read them?");
}

#[test]
fn every_test_that_is_named_is_there() {
    let mut tests = BTreeSet::new();
    collect_tests(&root(), &mut tests);
    let is_test_name = |text: &&str| {
        text.matches('_').count() >= 4 && text.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_')
    };
    let architecture = read("ARCHITECTURE.md");
    let named: Vec<&str> = quoted(&architecture).filter(is_test_name).collect();
    assert!(named.len() > 30, "only {} tests were found: does this test still read them?", named.len());
    for name in named {
        assert!(tests.contains(name), "ARCHITECTURE.md names a test {name}");
    }
}

fn collect_tests(folder: &Path, tests: &mut BTreeSet<String>) {
    for entry in std::fs::read_dir(folder).expect("readable") {
        let path = entry.expect("readable").path();
        let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        if path.is_dir() && !name.starts_with('.') && !matches!(&*name, "target" | "data") {
            collect_tests(&path, tests);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let text = std::fs::read_to_string(&path).expect("readable");
            let functions = text.split("fn ").skip(1).filter_map(|rest| rest.split_once('('));
            tests.extend(functions.map(|(name, _)| name.to_owned()));
        }
    }
}

#[test]
fn the_saga_s_table_is_the_one_that_its_test_writes() {
    let snapshot =
        read("order-service/src/domain/snapshots/order_service__domain__saga_tests__the_transition_table.snap");
    let (_, table) = snapshot.trim_start_matches("---\n").split_once("---\n").expect("a snapshot has a head");
    let architecture = read("ARCHITECTURE.md");
    let (_, rest) = architecture.split_once("<!-- transition table: begin -->").expect("the table begins");
    let (shown, _) = rest.split_once("<!-- transition table: end -->").expect("the table ends");
    assert_eq!(shown.trim(), table.trim());
}

/// As a shell splits them: what is within double quotes is one word.
fn words(command: &str) -> impl Iterator<Item = &str> {
    command.split('"').enumerate().flat_map(
        |(index, part)| {
            if index % 2 == 1 { vec![part] } else { part.split_whitespace().collect() }
        },
    )
}

#[test]
fn the_commands_that_are_named_are_understood() {
    use clap::Parser;
    let mut named = 0;
    for document in DOCUMENTS {
        let text = read(document);
        let lines = text.lines().filter_map(|line| line.strip_prefix("$ ./suite "));
        for command in lines.chain(quoted(&prose(&text)).filter_map(|text| text.strip_prefix("./suite "))) {
            if command == "--help" || command == "dlt show" {
                continue;
            }
            named += 1;
            let command = command.replace("ORDER", "01890a5d-ac96-774b-bcce-b302099a8057");
            let words = ["suite"].into_iter().chain(words(&command));
            assert!(ops::Cli::try_parse_from(words).is_ok(), "{document}: suite {command}");
        }
    }
    assert!(named >= 6, "only {named} commands were found: does this test still read them?");
}
