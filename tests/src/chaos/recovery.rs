//! How long the suite needed after a fault was healed. Pure.

/// A look at the orders, in milliseconds after the start of the load.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sample {
    /// When.
    pub at_ms: u64,
    /// When the oldest open order was placed; `None` where none is open.
    pub oldest_open_ms: Option<u64>,
}

/// How long after `healed_ms` until every order that was placed before it was final; `None` where no sample shows that.
///
/// Retries that wait for their time count, and so do faults that began meanwhile: it says how long customers waited.
pub fn recovery_ms(healed_ms: u64, samples: &[Sample]) -> Option<u64> {
    let later = samples.iter().filter(|sample| sample.at_ms >= healed_ms);
    let mut recovered = later.filter(|sample| sample.oldest_open_ms.is_none_or(|placed_ms| placed_ms > healed_ms));
    recovered.next().map(|sample| sample.at_ms - healed_ms)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(at_ms: u64, oldest_open_ms: Option<u64>) -> Sample {
        Sample { at_ms, oldest_open_ms }
    }

    #[test]
    fn it_lasts_until_no_order_from_before_is_open() {
        let samples = [sample(900, None), sample(1_500, Some(990)), sample(2_000, Some(1_200)), sample(2_500, None)];
        assert_eq!(recovery_ms(1_000, &samples), Some(1_000));
    }

    #[test]
    fn where_nothing_is_open_it_is_over() {
        assert_eq!(recovery_ms(1_000, &[sample(1_100, None)]), Some(100));
    }

    #[test]
    fn where_orders_stay_open_it_is_never_over() {
        assert_eq!(recovery_ms(1_000, &[sample(1_100, Some(10)), sample(9_000, Some(10))]), None);
    }
}
