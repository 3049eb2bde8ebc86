//! Writes the figures of docs/reliability.md from the reports of `make chaos`: `reliability-figures [REPORTS [PAGE]]`.

use std::path::PathBuf;
use std::process::ExitCode;

use system_tests::figures::update;

fn main() -> ExitCode {
    let mut arguments = std::env::args_os().skip(1).map(PathBuf::from);
    let reports = arguments.next().unwrap_or_else(|| PathBuf::from("target/chaos"));
    let page = arguments.next().unwrap_or_else(|| PathBuf::from("docs/reliability.md"));
    match update(&reports, &page) {
        Ok(runs) => {
            println!("{}: {runs} runs", page.display());
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
