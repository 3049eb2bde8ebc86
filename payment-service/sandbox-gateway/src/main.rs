//! The sandbox payment gateway as a process.

fn main() -> std::process::ExitCode {
    sandbox_gateway::cli::run()
}
