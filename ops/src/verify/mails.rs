//! The mail folder. A mail's file is named `ORDER.TEMPLATE.eml`; a second copy of it would be `ORDER.TEMPLATE.2.eml`.

use std::path::Path;

use anyhow::{Context, Result};
use contracts::OrderId;

use super::places::{MailSource, Places};

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
pub fn read(places: &Places) -> Result<Vec<Mail>> {
    match &places.mails {
        MailSource::Folder(folder) => read_folder(folder),
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
