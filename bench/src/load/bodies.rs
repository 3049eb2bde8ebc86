//! What is ordered: drawn from a seed, so that two runs place the same orders.

use rand::distr::Distribution;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use uuid::Uuid;

use crate::rig::EXTRA_SKUS;

/// How SKUs are drawn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Skus {
    /// Each as often as any other.
    Uniform,
    /// A few far more often than most: Zipf's law with exponent 1.
    Zipf,
}

/// Shares of orders, in 1,000, that don't end in a confirmed order at the first try.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mix {
    /// The card is declined.
    pub declined: u32,
    /// A SKU that is never in stock.
    pub out_of_stock: u32,
    /// The capture is refused after the order was confirmed.
    pub capture_refused: u32,
    /// The gateway answers 500 to the first call: the event goes through a retry topic.
    pub fails_once: u32,
}

impl Mix {
    /// Every order is confirmed.
    pub const GOOD: Self = Self { declined: 0, out_of_stock: 0, capture_refused: 0, fails_once: 0 };

    /// What a shop sees: 9 % of orders are refused in one way or another.
    pub const SHOP: Self = Self { declined: 40, out_of_stock: 30, capture_refused: 20, fails_once: 0 };
}

/// The test token with which the gateway answers 500 to the first call.
const FAILS_ONCE: &str = "tok_fail_1";

/// An order to be sent.
#[derive(Debug)]
pub struct Drawn {
    /// Its idempotency key.
    pub key: Uuid,
    /// The request's body.
    pub body: Vec<u8>,
    /// What it is for.
    pub sku: String,
    /// Whether its first call fails ([`Mix::fails_once`]).
    pub fails_once: bool,
}

/// Makes request bodies.
#[derive(Debug)]
pub struct Bodies {
    random: SmallRng,
    skus: Skus,
    zipf: zipf::Zipf,
    mix: Mix,
}

impl Bodies {
    /// Bodies that a seed determines.
    pub fn new(seed: u64, skus: Skus, mix: Mix) -> Self {
        let zipf = zipf::Zipf::new(EXTRA_SKUS);
        Self { random: SmallRng::seed_from_u64(seed), skus, zipf, mix }
    }

    /// The next order.
    pub fn draw(&mut self) -> Drawn {
        let kind = self.random.random_range(0..1_000);
        let Mix { declined, out_of_stock, capture_refused, fails_once } = self.mix;
        let bounds = [declined, out_of_stock, capture_refused, fails_once];
        let chosen = bounds.iter().scan(0, |sum, share| {
            *sum += share;
            Some(*sum)
        });
        let (token, in_stock) = match chosen.take_while(|bound| *bound <= kind).count() {
            0 => ("tok_declined", true),
            1 => ("tok_visa", false),
            2 => ("tok_capture_refused", true),
            3 => (FAILS_ONCE, true),
            _ => ("tok_visa", true),
        };
        let sku = if in_stock { self.sku() } else { "SKU-10".to_owned() };
        let (customer, quantity) = (self.random.random_range(0..100_000), self.random.random_range(1..4));
        let body = format!(
            r#"{{"customer":{{"email":"customer-{customer}@example.com"}},"lines":[{{"sku":"{sku}","quantity":{quantity}}}],"payment_method":"{token}"}}"#
        );
        let key = uuid::Builder::from_random_bytes(self.random.random()).into_uuid();
        Drawn { key, body: body.into_bytes(), sku, fails_once: token == FAILS_ONCE }
    }

    fn sku(&mut self) -> String {
        let number = match self.skus {
            Skus::Uniform => self.random.random_range(1..=EXTRA_SKUS),
            Skus::Zipf => self.zipf.sample(&mut self.random),
        };
        format!("B-{number:04}")
    }
}

mod zipf {
    //! Zipf with exponent 1 over 1..=n, by its cumulated weights.

    use rand::Rng;
    use rand::distr::Distribution;

    #[derive(Debug)]
    pub(super) struct Zipf(Vec<f64>);

    impl Zipf {
        #[expect(clippy::cast_precision_loss, reason = "a few thousand SKUs")]
        pub(super) fn new(count: usize) -> Self {
            let sums = (1..=count).scan(0.0, |sum, rank| {
                *sum += 1.0 / rank as f64;
                Some(*sum)
            });
            Self(sums.collect())
        }
    }

    impl Distribution<usize> for Zipf {
        fn sample<R: Rng + ?Sized>(&self, random: &mut R) -> usize {
            let total = self.0.last().copied().unwrap_or(1.0);
            let point = random.random_range(0.0..total);
            (self.0.partition_point(|sum| *sum <= point) + 1).min(self.0.len())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(seed: u64, skus: Skus, mix: Mix, count: usize) -> Vec<String> {
        let mut bodies = Bodies::new(seed, skus, mix);
        (0..count).map(|_| String::from_utf8(bodies.draw().body).expect("it is JSON")).collect()
    }

    #[test]
    fn a_seed_determines_the_orders() {
        assert_eq!(texts(7, Skus::Zipf, Mix::SHOP, 100), texts(7, Skus::Zipf, Mix::SHOP, 100));
        assert_ne!(texts(7, Skus::Zipf, Mix::SHOP, 100), texts(8, Skus::Zipf, Mix::SHOP, 100));
    }

    #[test]
    fn the_mix_is_what_was_asked_for() {
        let texts = texts(1, Skus::Uniform, Mix::SHOP, 20_000);
        let share = |what: &str| texts.iter().filter(|text| text.contains(what)).count() / 20;
        for (what, wanted) in [("tok_declined", 40), ("SKU-10", 30), ("tok_capture_refused", 20), ("tok_fail_1", 0)] {
            assert!(share(what).abs_diff(wanted) <= 5, "{what}: {} in 1,000", share(what));
        }
    }

    #[test]
    fn orders_whose_first_call_fails_are_told_from_the_others() {
        let fails = |mix| {
            let mut bodies = Bodies::new(1, Skus::Uniform, mix);
            (0..1_000).filter(|_| bodies.draw().fails_once).count()
        };
        assert_eq!(fails(Mix::SHOP), 0);
        assert!((5..20).contains(&fails(Mix { fails_once: 10, ..Mix::GOOD })));
    }

    #[test]
    fn zipf_prefers_the_first_and_uniform_does_not() {
        let first = |skus| texts(1, skus, Mix::GOOD, 10_000).iter().filter(|text| text.contains("B-0001")).count();
        assert!(first(Skus::Zipf) > 1_000, "{}", first(Skus::Zipf));
        assert!(first(Skus::Uniform) < 50, "{}", first(Skus::Uniform));
    }
}
