//! Which of an order's two answers, from payment and from stock, comes first: it may wait for the other.

use std::collections::HashSet;

use contracts::OrderId;

/// So many orders are remembered at least, where only one answer has come; twice as many at most.
const REMEMBERED: usize = 4_096;

/// Orders of which one answer has come. A hint, not a record: what is forgotten, or heard twice, only changes how long an
/// event waits for others.
#[derive(Debug, Default)]
pub(super) struct HalfAnswered {
    recent: HashSet<OrderId>,
    earlier: HashSet<OrderId>,
}

impl HalfAnswered {
    /// Notes that an answer has come. Whether it is the first of its order, as far as is remembered.
    pub(super) fn note(&mut self, order_id: OrderId) -> bool {
        if self.recent.remove(&order_id) || self.earlier.remove(&order_id) {
            return false;
        }
        if self.recent.len() == REMEMBERED {
            self.earlier = std::mem::take(&mut self.recent);
        }
        self.recent.insert(order_id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_second_answer_of_an_order_is_not_the_first() {
        let (mut answers, one, other) = (HalfAnswered::default(), OrderId::new(), OrderId::new());
        let heard = [one, other, other, one].map(|order_id| answers.note(order_id));
        assert_eq!(heard, [true, true, false, false]);
        assert_eq!((answers.recent.len(), answers.earlier.len()), (0, 0), "nothing is remembered of what is complete");
    }

    #[test]
    fn orders_that_get_no_second_answer_are_forgotten_in_the_end() {
        let mut answers = HalfAnswered::default();
        let orders: Vec<OrderId> = (0..3 * REMEMBERED).map(|_| OrderId::new()).collect();
        assert!(orders.iter().all(|order_id| answers.note(*order_id)));
        assert_eq!(answers.recent.len() + answers.earlier.len(), 2 * REMEMBERED);
        let again = |answers: &mut HalfAnswered, index: usize| answers.note(orders[index]);
        assert!(!again(&mut answers, 3 * REMEMBERED - 1) && !again(&mut answers, 2 * REMEMBERED - 1));
        assert!(again(&mut answers, 0), "forgotten, so the first again");
    }
}
