//! A stand-in for a bad network between the service and PostgreSQL.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use anyhow::{Context as _, Result};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// Where the connection is cut, once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cut {
    /// The insert does not reach the server.
    BeforeStatement,
    /// The insert is committed, and its answer does not reach the client.
    BeforeAnswer,
}

#[derive(Debug, Default)]
struct State {
    armed: Option<Cut>,
    has_cut: bool,
    /// The last statement was the insert, by its bound topic.
    inserting: bool,
}

/// Passes bytes on until it is told not to.
pub struct Proxy {
    url: String,
    state: Arc<Mutex<State>>,
    closed: CancellationToken,
    _running: JoinSet<()>,
}

impl Proxy {
    /// A proxy before the server that `url` names.
    pub async fn start(url: &str) -> Result<Self> {
        let (scheme, rest) = url.split_once("://").context("a URL")?;
        let at = rest.rfind('@').map_or(0, |at| at + 1);
        let end = at + rest[at..].find('/').context("it names a database")?;
        let server = rest[at..end].to_owned();
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let own: SocketAddr = listener.local_addr()?;
        let url = format!("{scheme}://{}{own}{}", &rest[..at], &rest[end..]);
        let (state, closed) = (Arc::<Mutex<State>>::default(), CancellationToken::new());
        let mut running = JoinSet::new();
        let (shared, stop) = (state.clone(), closed.clone());
        running.spawn(async move {
            let mut connections = JoinSet::new();
            while let Some(Ok((client, _))) = stop.run_until_cancelled(listener.accept()).await {
                let (server, state) = (server.clone(), shared.clone());
                connections.spawn(stop.clone().run_until_cancelled_owned(async move {
                    // Either side may go at any time: that is what it is for.
                    let _ = pass_on(client, &server, &state).await;
                }));
            }
        });
        Ok(Self { url, state, closed, _running: running })
    }

    /// The server's URL by way of this proxy.
    pub fn url(&self) -> String {
        self.url.clone()
    }

    /// Cuts the next connection that inserts orders, there.
    pub fn arm(&self, cut: Cut) {
        *lock(&self.state) = State { armed: Some(cut), ..State::default() };
    }

    /// Whether it has cut.
    pub fn has_cut(&self) -> bool {
        lock(&self.state).has_cut
    }

    /// From now on nobody answers.
    pub fn close(&self) {
        self.closed.cancel();
    }
}

fn lock(state: &Mutex<State>) -> std::sync::MutexGuard<'_, State> {
    state.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

async fn pass_on(mut client: TcpStream, server: &str, state: &Mutex<State>) -> Result<()> {
    let mut server = TcpStream::connect(server).await?;
    let (mut up, mut down) = (vec![0; 65_536], vec![0; 65_536]);
    loop {
        tokio::select! {
            read = client.read(&mut up) => {
                let bytes = &up[..read?];
                if bytes.is_empty() || cuts(&mut lock(state), Cut::BeforeStatement, bytes) {
                    return Ok(());
                }
                server.write_all(bytes).await?;
            }
            read = server.read(&mut down) => {
                let bytes = &down[..read?];
                if bytes.is_empty() || cuts(&mut lock(state), Cut::BeforeAnswer, bytes) {
                    return Ok(());
                }
                client.write_all(bytes).await?;
            }
        }
    }
}

/// The insert is the only statement of the test that has a customer's address among its parameters.
fn cuts(state: &mut State, at: Cut, bytes: &[u8]) -> bool {
    let inserts = at == Cut::BeforeStatement && bytes.windows(15).any(|part| part == b"ada@example.com");
    state.inserting |= inserts;
    let due = match at {
        Cut::BeforeStatement => inserts,
        Cut::BeforeAnswer => state.inserting,
    };
    let cut = due && state.armed == Some(at);
    if cut {
        *state = State { armed: None, has_cut: true, inserting: false };
    }
    cut
}
