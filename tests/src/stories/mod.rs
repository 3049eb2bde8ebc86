//! Stories of the whole suite that don't ask who runs it: the local stack's processes or Compose's containers.
//!
//! [`each_story!`](crate::each_story) lists those that disturb nobody; both targets are told every one of them. Those that
//! take something away say what they need for that: [`outage::Broker`].

pub mod failing;
pub mod ordinary;
pub mod outage;

use crate::NewOrder;

/// Hands the list of all stories that disturb nobody to a macro: `each_story!(tell)` is `tell! { module::story ... }`.
#[macro_export]
macro_rules! each_story {
    ($tell:ident) => {
        $tell! {
            ordinary::an_order_is_confirmed_charged_sold_and_told
            ordinary::a_declined_card_cancels_the_order_and_gives_the_stock_back
            ordinary::an_order_of_more_than_there_is_is_cancelled_and_not_charged
            ordinary::the_last_pieces_are_sold_once
            ordinary::a_cancellation_before_the_confirmation_undoes_everything
            ordinary::an_order_that_is_sent_many_times_is_one_order
            ordinary::a_refused_capture_cancels_a_confirmed_order_and_undoes_it
            failing::a_gateway_that_fails_twice_is_called_again_when_the_retry_is_due_and_not_before
            failing::a_capture_that_fails_twice_is_made_once
            failing::a_poison_record_becomes_a_dead_letter_of_every_group_and_its_neighbours_are_applied
        }
    };
}

/// Orders of every kind.
pub fn kinds(sku: &str) -> Vec<NewOrder> {
    let tokens = ["tok_visa", "tok_visa", "tok_declined", "tok_visa", "tok_capture_refused", "tok_visa", "tok_fail_1"];
    tokens.iter().map(|token| NewOrder::of(sku, 1).paid_with(token)).collect()
}
