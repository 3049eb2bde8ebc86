//! What an order does outside the suite: calls of the gateway and mails, as plain programs do them.

use std::fs::File;
use std::io::Write as _;

use anyhow::{Result, ensure};
use hyper::StatusCode;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::task::JoinSet;
use uuid::Uuid;

use super::axum::BareServer;
use crate::load::Connection;
use crate::measure::{CpuSeconds, ProcessTree};
use crate::rig::{KeepMails, Mails, Servers};
use crate::scenarios::Size;

/// Calls in progress at once.
const CALLERS: usize = 64;

/// Bytes of a mail about an order of one line.
const MAIL: usize = 900;

/// What was found, in CPU seconds for one.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct OutsideEffects {
    /// The caller's part of a call: a POST of an authorization on an open connection (hyper), its answer read as JSON.
    pub call: f64,
    /// The other part: axum, which reads JSON and answers JSON.
    pub answer: f64,
    /// A new file of a mail's bytes in the folder that stands in for a mail server.
    pub mail: f64,
}

/// Measures them.
///
/// # Errors
/// When a program is not built, or a call or a file fails.
pub async fn measure(servers: &Servers, size: Size) -> Result<OutsideEffects> {
    let server = BareServer::start().await?;
    let caller = ProcessTree { name: "caller".to_owned(), pid: std::process::id() };
    let trees = [server.tree(), caller];
    calls(&server.address, size.warm_up_orders).await?;
    let before = CpuSeconds::read(&trees)?;
    let count = calls(&server.address, size.ceiling_orders).await?;
    let spent = CpuSeconds::read(&trees)?.since(&before);
    server.end().await?;

    let [_, caller] = trees;
    let before = CpuSeconds::read(std::slice::from_ref(&caller))?;
    mails(servers, size.ceiling_orders)?;
    let mails = CpuSeconds::read(std::slice::from_ref(&caller))?.since(&before);
    #[expect(clippy::cast_precision_loss, reason = "counts of a benchmark fit")]
    let (count, files) = (count as f64, size.ceiling_orders as f64);
    let of = |name: &str| spent.0.get(name).copied().unwrap_or_default();
    Ok(OutsideEffects { call: of("caller") / count, answer: of("axum") / count, mail: mails.total() / files })
}

/// About so many calls, as fast as they are answered; returns how many.
async fn calls(address: &str, about: usize) -> Result<usize> {
    let each = about.div_ceil(CALLERS);
    let mut callers = JoinSet::new();
    for _ in 0..CALLERS {
        let mut connection = Connection::open(address).await?;
        callers.spawn(async move {
            for _ in 0..each {
                call(&mut connection).await?;
            }
            anyhow::Ok(())
        });
    }
    while let Some(ended) = callers.join_next().await {
        ended??;
    }
    Ok(each * CALLERS)
}

async fn call(connection: &mut Connection) -> Result<()> {
    let order_id = Uuid::now_v7();
    let (key, trace) = (format!("authorize:{order_id}"), format!("00-{}-0123456789abcdef-01", order_id.simple()));
    let headers = [("idempotency-key", key), ("traceparent", trace)];
    let body = json!({"order_id": order_id, "amount_minor": 1890, "currency": "EUR", "payment_method": "tok_ok"});
    let (status, answer) = connection.post("/v1/authorizations", headers, serde_json::to_vec(&body)?).await?;
    ensure!(status == StatusCode::CREATED, "a call was answered {status}");
    let answer: Value = serde_json::from_slice(&answer)?;
    ensure!(answer["status"] == "authorized", "a call was answered {answer}");
    Ok(())
}

fn mails(servers: &Servers, count: usize) -> Result<()> {
    let folder = Mails::create(KeepMails::InMemory, &servers.folder().join("effects"))?;
    let bytes = vec![b'a'; MAIL];
    for _ in 0..count {
        File::create_new(folder.path().join(format!("{}.eml", Uuid::now_v7())))?.write_all(&bytes)?;
    }
    Ok(())
}
