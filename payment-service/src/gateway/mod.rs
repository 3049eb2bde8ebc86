//! The payment gateway: what it can be asked, and that its answers are final.
//!
//! Every call carries an idempotency key that names the business intent ([`IntentKind::key`]): made again, it has the same
//! answer and no second effect (ARCHITECTURE, section 5). What is no final answer is a [`Failure`], decided from facts in
//! [`status`]. There are two gateways: [`HttpGateway`], and the fake that the unit tests let misbehave.
//!
//! [`IntentKind::key`]: crate::domain::IntentKind::key

#[cfg(test)]
pub(crate) mod fake;
mod http;
pub mod status;

use contracts::OrderId;
use messaging::Failure;

use crate::domain::{Authorization, AuthorizeAnswer, CaptureAnswer, VoidAnswer};

pub use http::HttpGateway;

/// A provider that authorizes, captures, voids and refunds.
pub trait PaymentGateway: Send + Sync + 'static {
    /// Sets an amount aside.
    fn authorize(&self, authorization: &Authorization)
    -> impl Future<Output = Result<AuthorizeAnswer, Failure>> + Send;

    /// Charges what was set aside.
    fn capture(
        &self,
        order_id: OrderId,
        authorization_id: &str,
    ) -> impl Future<Output = Result<CaptureAnswer, Failure>> + Send;

    /// Gives an authorization back; says so where it was captured before.
    fn void(
        &self,
        order_id: OrderId,
        authorization_id: &str,
    ) -> impl Future<Output = Result<VoidAnswer, Failure>> + Send;

    /// Pays a captured amount back.
    fn refund(&self, order_id: OrderId, authorization_id: &str) -> impl Future<Output = Result<(), Failure>> + Send;

    /// What took effect under the key of the order's authorization, if anything.
    fn find_authorization(
        &self,
        order_id: OrderId,
    ) -> impl Future<Output = Result<Option<AuthorizeAnswer>, Failure>> + Send;

    /// What took effect under the key of the order's capture, if anything.
    fn find_capture(&self, order_id: OrderId) -> impl Future<Output = Result<Option<CaptureAnswer>, Failure>> + Send;
}
