//! What an order costs, by the product table's prices at the time it is taken.

use std::collections::HashMap;

use contracts::orders::OrderLine;
use contracts::{Currency, Money, Sku};

/// What can be ordered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Product {
    /// Stock keeping unit.
    pub sku: Sku,
    /// For people.
    pub name: String,
    /// The price of one.
    pub price: Money,
}

/// A line as the client wants it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RequestedLine {
    /// What.
    pub sku: Sku,
    /// How many.
    pub quantity: u32,
}

/// Lines with prices, and their sum.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Priced {
    /// The lines, in the client's order.
    pub lines: Vec<OrderLine>,
    /// The sum.
    pub total: Money,
}

/// What is wrong with a line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PricingProblem {
    /// There is no such product.
    UnknownSku,
    /// Its price is in another currency than the first line's.
    OtherCurrency {
        /// The first line's.
        expected: Currency,
    },
    /// The sum can't be counted any more.
    TooExpensive,
}

/// Which line can't be priced, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PricingError {
    /// Index of the line.
    pub line: usize,
    /// Why.
    pub problem: PricingProblem,
}

/// Prices every line, or tells of each line that can't be priced.
pub fn price(lines: &[RequestedLine], catalog: &HashMap<Sku, Product>) -> Result<Priced, Vec<PricingError>> {
    let currency = lines.iter().find_map(|line| catalog.get(&line.sku)).map_or(Currency::EUR, |p| p.price.currency);
    let mut priced = Priced { lines: Vec::with_capacity(lines.len()), total: Money::new(0, currency) };
    let mut errors = Vec::new();
    for (line, wanted) in lines.iter().enumerate() {
        let mut refuse = |problem| errors.push(PricingError { line, problem });
        let Some(product) = catalog.get(&wanted.sku) else {
            refuse(PricingProblem::UnknownSku);
            continue;
        };
        if product.price.currency != currency {
            refuse(PricingProblem::OtherCurrency { expected: currency });
            continue;
        }
        let unit_price_minor = product.price.amount_minor;
        let sum = unit_price_minor
            .checked_mul(wanted.quantity.into())
            .and_then(|cost| priced.total.amount_minor.checked_add(cost));
        match sum {
            Some(sum) => priced.total.amount_minor = sum,
            None => refuse(PricingProblem::TooExpensive),
        }
        priced.lines.push(OrderLine { sku: wanted.sku.clone(), quantity: wanted.quantity, unit_price_minor });
    }
    if errors.is_empty() { Ok(priced) } else { Err(errors) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn catalog() -> HashMap<Sku, Product> {
        [("A", 250, Currency::EUR), ("B", 1999, Currency::EUR), ("C", 5, Currency::USD), ("D", i64::MAX, Currency::EUR)]
            .map(|(sku, price, currency)| {
                let sku = Sku::parse(sku).expect("SKU");
                let product = Product { sku: sku.clone(), name: "x".to_owned(), price: Money::new(price, currency) };
                (sku, product)
            })
            .into()
    }

    fn line(sku: &str, quantity: u32) -> RequestedLine {
        RequestedLine { sku: Sku::parse(sku).expect("SKU"), quantity }
    }

    #[test]
    fn the_total_is_the_sum_of_the_lines() {
        let priced = price(&[line("A", 3), line("B", 2)], &catalog()).expect("known");
        assert_eq!(priced.total, Money::new(4748, Currency::EUR));
        assert_eq!(priced.lines[1].unit_price_minor, 1999);
    }

    #[test]
    fn every_bad_line_is_told() {
        let errors = price(&[line("X", 1), line("A", 1), line("C", 1), line("Y", 1)], &catalog()).expect_err("bad");
        let told: Vec<_> = errors.iter().map(|e| e.line).collect();
        assert_eq!(told, [0, 2, 3]);
        assert_eq!(errors[1].problem, PricingProblem::OtherCurrency { expected: Currency::EUR });
    }

    #[test]
    fn a_sum_beyond_counting_is_refused() {
        let errors = price(&[line("D", 1), line("A", 1)], &catalog()).expect_err("too much");
        assert_eq!(errors, [PricingError { line: 1, problem: PricingProblem::TooExpensive }]);
    }
}
