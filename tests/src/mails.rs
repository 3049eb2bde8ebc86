//! The mail folder.

use std::path::Path;

use anyhow::{Context, Result};
use contracts::OrderId;

/// A mail to a customer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mail {
    /// What it is about.
    pub order_id: OrderId,
    /// `order_received`, `order_confirmed` or `order_cancelled`.
    pub template: String,
}

/// Every mail of the folder.
///
/// # Errors
/// When the folder or a mail can't be read, or a mail doesn't say what it is about.
pub fn read(folder: &Path) -> Result<Vec<Mail>> {
    let mut mails = Vec::new();
    for entry in std::fs::read_dir(folder).with_context(|| format!("reading {}", folder.display()))? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "eml") {
            let text = std::fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
            mails.push(parse(&text).with_context(|| format!("{}: {text}", path.display()))?);
        }
    }
    Ok(mails)
}

fn parse(text: &str) -> Option<Mail> {
    let header = |name: &str| {
        let head = text.lines().take_while(|line| !line.is_empty());
        head.filter_map(|line| line.split_once(": ")).find(|(found, _)| found.eq_ignore_ascii_case(name))
    };
    let order_id = header("X-Order-Id")?.1.trim().parse().ok()?;
    let template = header("X-Template")?.1.trim().to_owned();
    Some(Mail { order_id, template })
}
