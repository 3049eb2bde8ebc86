//! The command line as people use it: words in, lines and an exit status out.
#![allow(missing_docs)]

mod dlt;
mod docs;
mod orders;
mod process;
mod redrive;
mod topics;

use std::io::{self, Write};
use std::sync::{Arc, Mutex, PoisonError};

use clap::Parser;
use ops::{Cli, Exit, Screen, run};

/// What a command printed, and how it ended.
#[derive(Debug)]
struct Ran {
    exit: Exit,
    out: String,
    err: String,
}

/// Runs `suite WORDS`.
async fn suite(words: &[&str]) -> Ran {
    let cli = Cli::try_parse_from([&["suite"], words].concat()).expect("the words are understood");
    let (out, err) = (Writer::default(), Writer::default());
    let mut screen = Screen::into_writers(Box::new(out.clone()), Box::new(err.clone()));
    let exit = run(cli, &mut screen).await;
    Ran { exit, out: out.text(), err: err.text() }
}

#[derive(Clone, Default)]
struct Writer(Arc<Mutex<Vec<u8>>>);

impl Writer {
    fn text(&self) -> String {
        String::from_utf8(self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()).expect("UTF-8")
    }
}

impl Write for Writer {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
