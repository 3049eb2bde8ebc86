//! Mails. In a folder, a mail's file is named `ORDER.TEMPLATE.eml`; a second copy of it would be `ORDER.TEMPLATE.2.eml`. In a
//! maildev, its Message-ID tells: `TEMPLATE.ORDER@DOMAIN`.

use std::path::Path;

use anyhow::{Context, Result};
use contracts::OrderId;
use serde::Deserialize;

use super::places::{MailSource, Places, http_client};

/// A mail to a customer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mail {
    /// What it is about.
    pub order_id: OrderId,
    /// `order_received`, `order_confirmed` or `order_cancelled`.
    pub template: String,
}

/// Every mail.
///
/// # Errors
/// When they can't be read, or a mail doesn't say what it is about.
pub async fn read(places: &Places) -> Result<Vec<Mail>> {
    match &places.mails {
        MailSource::Folder(folder) => read_folder(folder),
        MailSource::Maildev(url) => read_maildev(url).await,
    }
}

fn read_folder(folder: &Path) -> Result<Vec<Mail>> {
    let mut mails = Vec::new();
    for entry in std::fs::read_dir(folder).with_context(|| format!("reading {}", folder.display()))? {
        let name = entry?.file_name();
        let name = name.to_str().context("a mail's name is no text")?;
        if let Some(name) = name.strip_suffix(".eml") {
            mails.push(named(name).with_context(|| format!("a mail is named {name}"))?);
        }
    }
    Ok(mails)
}

fn named(name: &str) -> Option<Mail> {
    let mut parts = name.split('.');
    Some(Mail { order_id: parts.next()?.parse().ok()?, template: parts.next()?.to_owned() })
}

/// What maildev's `GET /email` says of a mail, as far as it matters here.
#[derive(Deserialize)]
struct Received {
    #[serde(rename = "messageId")]
    message_id: String,
}

async fn read_maildev(url: &str) -> Result<Vec<Mail>> {
    let asked = async {
        let answer = http_client()?.get(format!("{url}/email")).send().await?.error_for_status()?;
        anyhow::Ok(answer.json::<Vec<Received>>().await?)
    };
    let received = asked.await.with_context(|| format!("reading the mails of {url}"))?;
    let mails = received.into_iter().map(|Received { message_id }| {
        identified(&message_id).with_context(|| format!("a mail's Message-ID is {message_id}"))
    });
    mails.collect()
}

fn identified(message_id: &str) -> Option<Mail> {
    let (template, order_id) = message_id.trim_matches(['<', '>']).split_once('@')?.0.rsplit_once('.')?;
    Some(Mail { order_id: order_id.parse().ok()?, template: template.to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_id_tells_order_and_template() {
        let order = OrderId::new();
        let mail = Mail { order_id: order, template: "order_received".to_owned() };
        assert_eq!(identified(&format!("order_received.{order}@example.com")), Some(mail));
        assert_eq!(identified("someone.else@example.com"), None);
    }
}
