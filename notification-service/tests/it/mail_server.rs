//! A mail server in this process: it speaks SMTP as far as a client without TLS needs, and fails as it is told.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use anyhow::{Context as _, Result, ensure};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

/// Where a connection fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    Greeting,
    Auth,
    Mail,
    Rcpt,
    Data,
    Message,
}

/// What a connection meets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Behaviour {
    /// The mail is taken and acknowledged.
    Accept,
    /// This answer, there.
    Refuse(Stage, u16),
    /// The connection is cut there without an answer; at `Message` the mail has been taken.
    Cut(Stage),
    /// Nothing is answered there any more; at `Message` the mail has been taken.
    Silent(Stage),
}

/// A mail that was taken.
#[derive(Debug, Clone)]
pub struct Taken {
    pub from: String,
    pub to: Vec<String>,
    pub text: String,
}

impl Taken {
    /// The value of a header.
    pub fn header(&self, name: &str) -> Option<&str> {
        let head = self.text.split("\n\n").next()?;
        head.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
    }
}

#[derive(Debug, Default)]
struct State {
    /// One for each connection to come; then all are accepted.
    script: VecDeque<Behaviour>,
    taken: Vec<Taken>,
    connections: usize,
}

/// The server; dropping it cuts every connection.
pub struct MailServer {
    addr: SocketAddr,
    state: Arc<Mutex<State>>,
    _listening: JoinSet<()>,
}

impl MailServer {
    /// A server whose first connections behave like this.
    pub async fn start(script: &[Behaviour]) -> Result<Self> {
        Self::start_at(([127, 0, 0, 1], 0).into(), script).await
    }

    /// The same at an address.
    pub async fn start_at(addr: SocketAddr, script: &[Behaviour]) -> Result<Self> {
        let listener = TcpListener::bind(addr).await?;
        let addr = listener.local_addr()?;
        let state = State { script: script.iter().copied().collect(), ..State::default() };
        let state = Arc::new(Mutex::new(state));
        let mut listening = JoinSet::new();
        let shared = Arc::clone(&state);
        listening.spawn(async move {
            let mut conversations = JoinSet::new();
            while let Ok((connection, _)) = listener.accept().await {
                let state = Arc::clone(&shared);
                conversations.spawn(async move {
                    // A client that goes away is none of our business.
                    let _ = converse(connection, &state).await;
                });
            }
        });
        Ok(Self { addr, state, _listening: listening })
    }

    /// For `SMTP_URL`.
    pub fn url(&self) -> String {
        format!("smtp://{}", self.addr)
    }

    /// The mails that were taken, acknowledged or not.
    pub fn taken(&self) -> Vec<Taken> {
        self.state.lock().expect("no panic").taken.clone()
    }

    /// How often somebody connected.
    pub fn connections(&self) -> usize {
        self.state.lock().expect("no panic").connections
    }
}

type Lines = BufReader<TcpStream>;

async fn converse(connection: TcpStream, state: &Mutex<State>) -> Result<()> {
    let behaviour = {
        let mut state = state.lock().expect("no panic");
        state.connections += 1;
        state.script.pop_front().unwrap_or(Behaviour::Accept)
    };
    let mut lines = BufReader::new(connection);
    answer(&mut lines, behaviour, Stage::Greeting, "220 test ESMTP").await?;
    let mut mail = Taken { from: String::new(), to: Vec::new(), text: String::new() };
    loop {
        let line = read(&mut lines).await?;
        let verb = line.split([' ', ':']).next().unwrap_or_default().to_ascii_uppercase();
        match verb.as_str() {
            "EHLO" => say(&mut lines, "250-test\r\n250-AUTH PLAIN LOGIN\r\n250 8BITMIME").await?,
            "AUTH" => answer(&mut lines, behaviour, Stage::Auth, "235 welcome").await?,
            "MAIL" => {
                mail.from = address(&line);
                answer(&mut lines, behaviour, Stage::Mail, "250 ok").await?;
            }
            "RCPT" => {
                mail.to.push(address(&line));
                answer(&mut lines, behaviour, Stage::Rcpt, "250 ok").await?;
            }
            "DATA" => {
                answer(&mut lines, behaviour, Stage::Data, "354 go ahead").await?;
                mail.text = read_message(&mut lines).await?;
                if !matches!(behaviour, Behaviour::Refuse(Stage::Message, _)) {
                    state.lock().expect("no panic").taken.push(mail.clone());
                }
                answer(&mut lines, behaviour, Stage::Message, "250 taken").await?;
            }
            "QUIT" => return say(&mut lines, "221 bye").await,
            other => anyhow::bail!("unexpected {other}"),
        }
    }
}

/// Answers as usual unless the connection fails at this stage. A refusal repeats the address, as servers do.
async fn answer(lines: &mut Lines, behaviour: Behaviour, stage: Stage, usual: &str) -> Result<()> {
    match behaviour {
        Behaviour::Refuse(at, code) if at == stage => {
            say(lines, &format!("{code} <ada@example.com> is not welcome")).await
        }
        Behaviour::Cut(at) if at == stage => anyhow::bail!("cut"),
        Behaviour::Silent(at) if at == stage => std::future::pending().await,
        _ => say(lines, usual).await,
    }
}

async fn say(lines: &mut Lines, text: &str) -> Result<()> {
    lines.get_mut().write_all(format!("{text}\r\n").as_bytes()).await.context("saying")
}

async fn read(lines: &mut Lines) -> Result<String> {
    let mut line = String::new();
    ensure!(lines.read_line(&mut line).await? > 0, "the client is gone");
    Ok(line.trim_end().to_owned())
}

async fn read_message(lines: &mut Lines) -> Result<String> {
    let mut text = String::new();
    loop {
        match read(lines).await?.as_str() {
            "." => return Ok(text),
            line => {
                text.push_str(line.strip_prefix('.').unwrap_or(line));
                text.push('\n');
            }
        }
    }
}

fn address(line: &str) -> String {
    let address = line.split_once('<').and_then(|(_, rest)| rest.split_once('>')).map(|(address, _)| address);
    address.unwrap_or_default().to_owned()
}
