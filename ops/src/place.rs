//! `suite place`: an order by `POST /orders`.

use std::str::FromStr;

use anyhow::Result;
use clap::Args;
use contracts::Sku;
use uuid::Uuid;

use crate::Exit;
use crate::api::Api;
use crate::cli::OrderApi;
use crate::screen::{Paint, Screen};
use crate::watch::{Follow, follow};

/// Place an order. Sent again where no answer comes, always under one Idempotency-Key, so there is at most one order.
#[derive(Debug, Args)]
pub struct Place {
    /// What to order, with its own quantity if it differs: SKU-1 or SKU-1=3; may be repeated
    #[arg(long = "sku", value_name = "SKU[=N]", default_value = "SKU-1")]
    pub lines: Vec<Line>,
    /// How many of each
    #[arg(long, default_value_t = 1, value_name = "N")]
    pub quantity: u32,
    /// The payment token; the sandbox knows tok_visa, tok_declined, tok_fail_2, tok_timeout, tok_capture_refused ...
    #[arg(long, default_value = "tok_visa", value_name = "TOKEN")]
    pub payment_method: String,
    /// Where the customer's mails go
    #[arg(long, default_value = "ada@example.com", value_name = "ADDRESS")]
    pub email: String,
    /// The customer's phone, for example +15550100
    #[arg(long, value_name = "NUMBER")]
    pub phone: Option<String>,
    /// The Idempotency-Key; the same one again answers with the same order
    #[arg(long, value_name = "KEY")]
    pub key: Option<String>,
    /// Follow the order until it is final
    #[arg(long)]
    pub watch: bool,
    #[command(flatten)]
    pub follow: Follow,
    #[command(flatten)]
    pub(crate) api: OrderApi,
}

/// One line of the order to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    sku: Sku,
    quantity: Option<u32>,
}

impl FromStr for Line {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (sku, quantity) = match text.split_once('=') {
            None => (text, None),
            Some((sku, quantity)) => {
                let number = quantity.parse().map_err(|_| format!("{quantity:?} is no quantity: SKU-1=3 is three"))?;
                (sku, Some(number))
            }
        };
        Ok(Self { sku: Sku::parse(sku).map_err(|e| e.to_string())?, quantity })
    }
}

/// Runs the command.
pub async fn run(command: Place, screen: &mut Screen) -> Result<Exit> {
    let api = Api::new(&command.api.order_url)?;
    let key = command.key.clone().unwrap_or_else(|| Uuid::now_v7().to_string());
    let placed = api.place(&key, &body(&command)).await?;
    if command.follow.json {
        screen.json(&placed)?;
    } else {
        let message = screen.painted(&placed.message, Paint::Bold);
        screen.line(format!("{message}  {}", placed.order_id))?;
    }
    if command.watch {
        return follow(&api, placed.order_id, &command.follow, screen).await;
    }
    if !command.follow.json {
        screen.line(screen.painted(&format!("  suite watch {} follows it", placed.order_id), Paint::Dim))?;
    }
    Ok(Exit::Ok)
}

fn body(command: &Place) -> serde_json::Value {
    let line =
        |line: &Line| serde_json::json!({"sku": line.sku, "quantity": line.quantity.unwrap_or(command.quantity)});
    let mut customer = serde_json::json!({"email": command.email});
    if let Some(phone) = &command.phone {
        customer["phone"] = phone.as_str().into();
    }
    serde_json::json!({
        "customer": customer,
        "lines": command.lines.iter().map(line).collect::<Vec<_>>(),
        "payment_method": command.payment_method,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_a_sku_with_or_without_its_own_quantity() {
        let line = |sku: &str, quantity| Ok(Line { sku: Sku::parse(sku).expect("a SKU"), quantity });
        assert_eq!("SKU-1".parse(), line("SKU-1", None));
        assert_eq!("SKU-1=3".parse(), line("SKU-1", Some(3)));
        for bad in ["", "=3", "SKU 1", "SKU-1=", "SKU-1=-1", "SKU-1=1=2"] {
            assert!(bad.parse::<Line>().is_err(), "{bad}");
        }
    }
}
