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
pub enum LineProblem {
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

/// Why an order can't be priced.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PricingError {
    /// The index of each line that can't be, and why.
    Lines(Vec<(usize, LineProblem)>),
    /// Every line can, and their sum is nothing: no gateway takes a payment of nothing, so the order could never be confirmed.
    NothingToPay,
}

/// Prices every line, or tells of each line that can't be priced. A line may be free; an order may not.
pub fn price(lines: &[RequestedLine], catalog: &HashMap<Sku, Product>) -> Result<Priced, PricingError> {
    let currency = lines.iter().find_map(|line| catalog.get(&line.sku)).map_or(Currency::EUR, |p| p.price.currency);
    let mut priced = Priced { lines: Vec::with_capacity(lines.len()), total: Money::new(0, currency) };
    let mut errors = Vec::new();
    for (line, wanted) in lines.iter().enumerate() {
        let mut refuse = |problem| errors.push((line, problem));
        let Some(product) = catalog.get(&wanted.sku) else {
            refuse(LineProblem::UnknownSku);
            continue;
        };
        if product.price.currency != currency {
            refuse(LineProblem::OtherCurrency { expected: currency });
            continue;
        }
        let unit_price_minor = product.price.amount_minor;
        let sum = unit_price_minor
            .checked_mul(wanted.quantity.into())
            .and_then(|cost| priced.total.amount_minor.checked_add(cost));
        match sum {
            Some(sum) => priced.total.amount_minor = sum,
            None => refuse(LineProblem::TooExpensive),
        }
        priced.lines.push(OrderLine { sku: wanted.sku.clone(), quantity: wanted.quantity, unit_price_minor });
    }
    if !errors.is_empty() {
        return Err(PricingError::Lines(errors));
    }
    if priced.total.amount_minor <= 0 { Err(PricingError::NothingToPay) } else { Ok(priced) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn catalog() -> HashMap<Sku, Product> {
        let eur =
            [("A", 250), ("B", 1999), ("D", i64::MAX), ("FREE", 0)].map(|(sku, price)| (sku, price, Currency::EUR));
        let all = eur.into_iter().chain([("C", 5, Currency::USD)]);
        all.map(|(sku, price, currency)| {
            let sku = Sku::parse(sku).expect("SKU");
            let product = Product { sku: sku.clone(), name: "x".to_owned(), price: Money::new(price, currency) };
            (sku, product)
        })
        .collect()
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
        let error = price(&[line("X", 1), line("A", 1), line("C", 1), line("Y", 1)], &catalog()).expect_err("bad");
        let other = LineProblem::OtherCurrency { expected: Currency::EUR };
        let expected = vec![(0, LineProblem::UnknownSku), (2, other), (3, LineProblem::UnknownSku)];
        assert_eq!(error, PricingError::Lines(expected));
    }

    #[test]
    fn a_line_may_be_free_and_an_order_may_not() {
        let priced = price(&[line("FREE", 2), line("A", 1)], &catalog()).expect("something to pay");
        assert_eq!((priced.total, priced.lines[0].unit_price_minor), (Money::new(250, Currency::EUR), 0));
        assert_eq!(price(&[line("FREE", 1000)], &catalog()), Err(PricingError::NothingToPay));
    }

    #[test]
    fn a_sum_beyond_counting_is_refused() {
        let error = price(&[line("D", 1), line("A", 1)], &catalog()).expect_err("too much");
        assert_eq!(error, PricingError::Lines(vec![(1, LineProblem::TooExpensive)]));
    }
}
