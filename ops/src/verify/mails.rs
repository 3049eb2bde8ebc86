//! The mails that customers got: files of a folder, or what a mail server shows.

use std::path::Path;

use anyhow::{Context, Result};
use contracts::OrderId;
use serde_json::Value;

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
/// When they can't be read, or a file of the folder doesn't say what it is about.
pub async fn read(places: &Places) -> Result<Vec<Mail>> {
    match &places.mails {
        MailSource::Folder(folder) => read_folder(folder),
        MailSource::Maildev(url) => read_server(url).await,
        MailSource::Nowhere => Ok(Vec::new()),
    }
}

/// A mail's file is named `ORDER.TEMPLATE.eml`; a second copy of it would be `ORDER.TEMPLATE.2.eml`.
///
/// # Errors
/// When the folder can't be read, or a file doesn't say what it is about.
pub fn read_folder(folder: &Path) -> Result<Vec<Mail>> {
    let mut mails = Vec::new();
    for entry in std::fs::read_dir(folder).with_context(|| format!("reading {}", folder.display()))? {
        let name = entry?.file_name();
        let name = name.to_str().context("a mail's name is no text")?;
        if let Some(name) = name.strip_suffix(".eml") {
            let mut parts = name.split('.');
            mails.push(named(parts.next(), parts.next()).with_context(|| format!("a mail is named {name}"))?);
        }
    }
    Ok(mails)
}

/// maildev's list of mails (<https://github.com/maildev/maildev/blob/master/docs/rest.md>). What others sent there is
/// skipped: our mails are known by their Message-ID, `<TEMPLATE.ORDER@...>`.
async fn read_server(url: &str) -> Result<Vec<Mail>> {
    let url = format!("{}/email", url.trim_end_matches('/'));
    let asked = async {
        let answer = http_client()?.get(&url).send().await?.error_for_status()?;
        anyhow::Ok(answer.json::<Vec<Value>>().await?)
    };
    let mails = asked.await.with_context(|| format!("reading the mail server's list at {url}"))?;
    Ok(mails.iter().filter_map(of_server).collect())
}

fn of_server(mail: &Value) -> Option<Mail> {
    let id = mail["messageId"].as_str().or_else(|| mail["headers"]["message-id"].as_str())?;
    let (local, _) = id.trim_matches(['<', '>']).split_once('@')?;
    let (template, order) = local.split_once('.')?;
    named(Some(order), Some(template))
}

fn named(order: Option<&str>, template: Option<&str>) -> Option<Mail> {
    Some(Mail { order_id: order?.parse().ok()?, template: template?.to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mail_server_s_mail_is_known_by_its_message_id_and_a_stranger_s_is_skipped() {
        let order = OrderId::new();
        let mail = Mail { order_id: order, template: "order_received".to_owned() };
        let id = format!("order_received.{order}@shop.example");
        assert_eq!(of_server(&serde_json::json!({"messageId": id})), Some(mail.clone()));
        let headers = serde_json::json!({"headers": {"message-id": format!("<{id}>")}});
        assert_eq!(of_server(&headers), Some(mail));
        assert_eq!(of_server(&serde_json::json!({"messageId": "hello@elsewhere.example"})), None);
        assert_eq!(of_server(&serde_json::json!({"subject": "none"})), None);
    }
}
