//! The command line of the order suite. One command a file; what a command prints it returns to a [`Screen`], so that
//! tests read what people see.
//!
//! Exit status: 0 it is done (a watched order is final, as expected); 1 it failed, and the last line on stderr says why
//! and what to do; 2 the command line can't be understood; 3 the order was not final in time.
//!
//! Deliberately absent: a Kafka producer. What must be published goes through a service, which has an outbox.

mod api;
mod cli;
mod dlt;
mod explain;
mod place;
mod screen;
mod timeline;
mod topics;
pub mod verify;
mod watch;

pub use cli::Cli;
pub use screen::Screen;

use cli::{Command, DltCommand, TopicsCommand};

/// How a command ended; its number is the exit status.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// Done, and where an order was watched, final as expected.
    Ok = 0,
    /// It failed.
    Error = 1,
    /// The order is not final yet.
    NotFinal = 3,
}

/// Runs a command and tells on stderr why it failed, where it did.
pub async fn run(cli: Cli, screen: &mut Screen) -> Exit {
    match dispatch(cli, screen).await {
        Ok(exit) => exit,
        // Who reads has seen enough: `suite dlt list | head`.
        Err(error) if is_broken_pipe(&error) => Exit::Ok,
        Err(error) => {
            screen.error(&format!("{error:#}"));
            Exit::Error
        }
    }
}

async fn dispatch(cli: Cli, screen: &mut Screen) -> anyhow::Result<Exit> {
    match cli.command {
        Command::Place(command) => place::run(command, screen).await,
        Command::Watch(command) => watch::run(command, screen).await,
        Command::Explain(command) => explain::run(command, screen).await,
        Command::Verify(command) => verify::command::run(command, screen).await,
        Command::Dlt(DltCommand::List(command)) => dlt::list::run(command, screen).await,
        Command::Dlt(DltCommand::Show(command)) => dlt::show::run(command, screen).await,
        Command::Dlt(DltCommand::Redrive(command)) => dlt::decide::redrive(command, screen).await,
        Command::Dlt(DltCommand::Discard(command)) => dlt::decide::discard(command, screen).await,
        Command::Dlt(DltCommand::Export(command)) => dlt::export::run(command, screen).await,
        Command::Topics(TopicsCommand::Apply(command)) => topics::apply::run(command, screen).await,
        Command::Topics(TopicsCommand::Kubernetes(command)) => topics::kubernetes::run(&command, screen),
        Command::Topics(TopicsCommand::List(command)) => topics::list::run(command, screen).await,
    }
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    let io = error.downcast_ref::<std::io::Error>();
    io.is_some_and(|error| error.kind() == std::io::ErrorKind::BrokenPipe)
}
