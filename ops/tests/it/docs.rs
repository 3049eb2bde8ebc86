//! The documents name files, tests and commands, and show the saga's table: all of that is there. So are the settings that
//! Compose's files and they tell.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use clap::{CommandFactory, Parser};

const DOCUMENTS: [&str; 5] = ["README.md", "ARCHITECTURE.md", "CHANGELOG.md", "docs/kubernetes.md", "docs/metrics.md"];

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

/// As a shell splits them: what is within double quotes is one word. Where the output goes and comments are none.
fn words(command: &str) -> Vec<&str> {
    let command = command.split(" >").next().unwrap_or_default().split(" # ").next().unwrap_or_default();
    let parts = command.split('"').enumerate();
    parts
        .flat_map(|(index, part)| if index % 2 == 1 { vec![part] } else { part.split_whitespace().collect() })
        .collect()
}

/// Whether these words only name a command, as a sentence does: `dlt redrive`, or several at once, `dlt list|show`.
fn names_a_command(words: &[&str]) -> bool {
    let cli = ops::Cli::command();
    let mut above = &cli;
    for word in words {
        let mut commands = word.split('|').map(|name| above.find_subcommand(name));
        let Some(Some(command)) = commands.next() else { return false };
        if commands.any(|command| command.is_none()) {
            return false;
        }
        above = command;
    }
    true
}

/// What is to be typed as it is, `./suite ...` or after a prompt, and what may be a command's name, `suite ...`.
fn commands(text: &str) -> (Vec<String>, Vec<String>) {
    const PROMPTS: [&str; 3] = ["$ ./suite ", "$ suite ", "$ docker compose run --rm suite "];
    let prose = prose(text);
    let in_prose = |prefix: &'static str| quoted(&prose).filter_map(move |quoted| quoted.strip_prefix(prefix));
    let after = |line: &'_ str| PROMPTS.iter().find_map(|prompt| line.strip_prefix(prompt).map(str::to_owned));
    let typed = text.lines().filter_map(after).chain(in_prose("./suite ").map(str::to_owned)).collect();
    (typed, in_prose("suite ").map(str::to_owned).collect())
}

fn is_understood(command: &str) -> bool {
    const AN_ORDER: &str = "01890a5d-ac96-774b-bcce-b302099a8057";
    let command = command.replace("ORDER_ID", AN_ORDER).replace("ORDER", AN_ORDER);
    match ops::Cli::try_parse_from(["suite"].into_iter().chain(words(&command))) {
        Ok(_) => true,
        Err(refusal) => refusal.kind() == clap::error::ErrorKind::DisplayHelp,
    }
}

#[test]
fn the_commands_that_are_named_are_understood() {
    let mut named = 0;
    for document in DOCUMENTS.into_iter().chain(["docs/reliability.md", "docs/observe.md"]) {
        let text = read(document);
        let (typed, mentioned) = commands(&text);
        named += typed.len() + mentioned.len();
        for command in typed {
            assert!(is_understood(&command), "{document}: suite {command}");
        }
        for command in mentioned {
            assert!(names_a_command(&words(&command)) || is_understood(&command), "{document}: suite {command}");
        }
    }
    assert!(named >= 40, "only {named} commands were found: does this test still read them?");
}

#[test]
fn a_command_that_lacks_an_argument_or_has_one_too_many_is_not_understood() {
    assert!(names_a_command(&["dlt", "list|show"]) && !names_a_command(&["dlt", "list|tell"]));
    for command in ["dlt show", "dlt list GROUP", "explain", "place --sku"] {
        assert!(!is_understood(command), "{command}");
        assert_eq!(commands(&format!("`./suite {command}`")).0, [command]);
    }
    assert!(is_understood("dlt show GROUP AT") && is_understood("explain ORDER_ID") && is_understood("--help"));
    assert!(is_understood("topics kubernetes >topics.yaml") && is_understood("dlt list # what there is"));
}

#[test]
fn every_alert_has_its_section_and_names_commands_that_are_understood() {
    let (alerts, sections) = (read("deploy/prometheus/alerts.yml"), read("docs/metrics.md"));
    let values = |name: &'static str| alerts.lines().filter_map(move |line| line.trim().strip_prefix(name));
    let names: Vec<&str> = values("- alert: ").collect();
    let runbooks: Vec<&str> = values("runbook: ").map(|runbook| runbook.trim_matches('"')).collect();
    assert!(names.len() >= 8 && names.len() == runbooks.len(), "{names:?} {runbooks:?}");
    for (name, runbook) in names.iter().zip(runbooks) {
        assert!(sections.contains(&format!("\n### {name}\n")), "docs/metrics.md doesn't tell of {name}");
        let mut steps = runbook.split([';', ',']).map(str::trim);
        assert_eq!(steps.next(), Some(&*format!("docs/metrics.md#{}", name.to_lowercase())));
        for command in steps.filter_map(|step| step.strip_prefix("suite ")) {
            assert!(is_understood(command), "{name}: suite {command}");
        }
    }
}

/// `${NAME:-default}` and `${NAME-default}` of Compose's file.
fn compose_defaults() -> BTreeMap<String, String> {
    let mut defaults = BTreeMap::new();
    for part in read("docker-compose.yml").split("${").skip(1) {
        let (variable, _) = part.split_once('}').expect("a variable ends");
        let (name, default) = variable.split_once('-').expect("every variable has a default");
        let name = name.trim_end_matches(':').to_owned();
        let before = defaults.insert(name.clone(), default.to_owned());
        assert!(before.is_none_or(|before| before == default), "{name} has two defaults");
    }
    defaults
}

#[test]
fn env_example_has_every_variable_of_compose_with_its_default() {
    let compose = compose_defaults();
    let text = read(".env.example");
    let lines = text.lines().filter_map(|line| line.strip_prefix('#')?.split_once('='));
    let is_a_name = |name: &str| !name.is_empty() && name.chars().all(|c| c.is_ascii_uppercase() || c == '_');
    let shown: BTreeMap<&str, &str> = lines.filter(|(name, _)| is_a_name(name)).collect();
    // Compose's own.
    let names: BTreeSet<&str> = shown.keys().copied().filter(|name| *name != "COMPOSE_PROFILES").collect();
    assert_eq!(names, compose.keys().map(String::as_str).collect());
    // Where Compose passes nothing on, the default is the program's.
    for (name, default) in compose.iter().filter(|(_, default)| !default.is_empty()) {
        assert_eq!(shown[&**name], default, "{name}");
    }
}

#[test]
fn the_command_line_in_compose_is_told_where_everything_is_and_has_room_for_it() {
    // What is not somewhere, but how something is; and where mails go is told by MAIL_API_URL.
    const OTHERS: [&str; 5] = ["IDEMPOTENCY_TTL_SECS", "KAFKA_PROPERTIES", "MAIL_DIR", "TOPICS_FILE", "TOPIC_PREFIX"];
    let compose = read("docker-compose.yml");
    let (_, rest) = compose.split_once("\n  suite:\n").expect("the container is there");
    let (suite, _) = rest.split_once("\n\n").expect("it ends");
    for command in ["place", "verify", "explain"] {
        let cli = ops::Cli::command();
        let command = cli.find_subcommand(command).expect("a command");
        for variable in command.get_arguments().filter_map(|argument| argument.get_env()?.to_str()) {
            let is_told = suite.contains(&format!("\n      {variable}: "));
            assert!(is_told || OTHERS.contains(&variable), "{variable} of suite {}", command.get_name());
        }
    }
    let number = |text: &str, before: &str, after: &str| -> usize {
        let number = text.split_once(before).and_then(|(_, rest)| rest.split_once(after));
        number.and_then(|(number, _)| number.parse().ok()).unwrap_or_else(|| panic!("no number after {before}"))
    };
    let fetched_kib = number(&read("ops/src/verify/topics.rs"), "const FETCHED_KIB: &str = \"", "\";");
    let limit_mib = number(suite, "mem_limit: ", "m\n");
    assert!(limit_mib >= 4 * fetched_kib / 1024, "{limit_mib} MiB for what is fetched ahead, {fetched_kib} KiB");
}

#[test]
fn images_are_built_with_arguments_that_the_dockerfile_has_and_those_to_deploy_are_optimised() {
    let dockerfile = read("deploy/Dockerfile");
    let mut builds = 0;
    for document in DOCUMENTS {
        let text = read(document);
        for build in text.lines().filter(|line| line.contains("docker compose build --build-arg")) {
            builds += 1;
            for argument in build.split("--build-arg ").skip(1) {
                let (name, _) = argument.split_once('=').expect("NAME=VALUE");
                assert!(dockerfile.contains(&format!("\nARG {name}=")), "{document}: {name}");
            }
            assert!(build.contains("PROFILE=release") && build.contains("GIT_COMMIT="), "{document}: {build}");
        }
    }
    assert!(builds > 0, "no document says how to build images to deploy");
}
