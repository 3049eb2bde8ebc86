//! Where nobody knows whether a mail was sent (I7): reported, or sent again under the same Message-ID, as configured.

use std::time::Duration;

use anyhow::{Result, ensure};
use contracts::OrderId;
use notification_service::db::pages::{Unknown, count_unknown};
use notification_service::domain::OnUnknown;
use serde_json::json;

use crate::app::{FAILED, SENT, TestApp};
use crate::events::{cancelled, placed};
use crate::mail_server::{Behaviour, MailServer, Stage};

/// Once this order is told, everything before it has been consumed.
async fn wait_consumed(app: &TestApp) -> Result<()> {
    let last = OrderId::new();
    app.publish(&placed(last)).await?;
    app.wait_told(last, &[(SENT, "order_received")]).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mail_whose_answer_is_lost_is_reported_and_not_sent_again() -> Result<()> {
    for lost in [Behaviour::Cut(Stage::Message), Behaviour::Silent(Stage::Message)] {
        let server = MailServer::start(&[lost]).await?;
        let app = TestApp::start_by_smtp(server.url(), OnUnknown::Report).await?;
        let order = OrderId::new();
        app.publish(&placed(order)).await?;
        app.wait_told(order, &[(FAILED, "unknown")]).await?;
        // Neither a copy of the event nor the order's next one sends it again.
        app.publish(&placed(order)).await?;
        app.publish(&cancelled(order)).await?;
        app.wait_told(order, &[(FAILED, "unknown"), (SENT, "order_cancelled")]).await?;
        assert_eq!(server.taken().len(), 2);
        let (_, page) = app.get("/deliveries?state=unknown").await?;
        assert_eq!(page["deliveries"][0]["order_id"], json!(order));
        assert_eq!(page["deliveries"][0]["in_doubt"], json!(true));
        assert_eq!(app.dead_letters().await?, []);
        app.stop().await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mail_whose_answer_is_lost_is_sent_again_under_its_message_id_where_that_is_wanted() -> Result<()> {
    let server = MailServer::start(&[Behaviour::Cut(Stage::Message)]).await?;
    let app = TestApp::start_by_smtp(server.url(), OnUnknown::Resend).await?;
    let order = OrderId::new();
    app.publish(&placed(order)).await?;
    app.wait_told(order, &[(SENT, "order_received")]).await?;
    let taken = server.taken();
    assert_eq!(taken.len(), 2);
    assert_eq!(taken[0].header("Message-ID"), taken[1].header("Message-ID"));
    assert_eq!(app.delivery(order).await?, ("sent".to_owned(), 2, true));
    app.stop().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_lost_before_the_message_leaves_no_doubt() -> Result<()> {
    let server = MailServer::start(&[Behaviour::Cut(Stage::Data), Behaviour::Silent(Stage::Rcpt)]).await?;
    let app = TestApp::start_by_smtp(server.url(), OnUnknown::Report).await?;
    let order = OrderId::new();
    app.publish(&placed(order)).await?;
    app.wait_told(order, &[(SENT, "order_received")]).await?;
    assert_eq!(server.taken().len(), 1);
    assert_eq!(app.delivery(order).await?, ("sent".to_owned(), 3, false));
    app.stop().await
}

#[tokio::test(flavor = "multi_thread")]
async fn what_stays_in_doubt_to_the_last_tier_is_unknown_not_failed() -> Result<()> {
    let server = MailServer::start(&[Behaviour::Cut(Stage::Message); 4]).await?;
    let app = TestApp::start_by_smtp(server.url(), OnUnknown::Resend).await?;
    let order = OrderId::new();
    app.publish(&placed(order)).await?;
    app.wait_told(order, &[(FAILED, "unknown")]).await?;
    assert_eq!(app.delivery(order).await?, ("unknown".to_owned(), 4, true));
    app.stop().await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_expired_claim_is_reported_or_sent_again_as_configured() -> Result<()> {
    for (on_unknown, told, mails) in
        [(OnUnknown::Report, (FAILED, "unknown"), 1), (OnUnknown::Resend, (SENT, "order_received"), 2)]
    {
        let app = TestApp::start_with(|config| config.unknown_delivery = on_unknown).await?;
        let order = OrderId::new();
        app.leave_claim(order, "order_received", -1.0).await?;
        app.publish(&placed(order)).await?;
        app.wait_told(order, &[told]).await?;
        wait_consumed(&app).await?;
        assert_eq!(app.mails()?.len(), mails, "{on_unknown:?}: {:?}", app.mails()?);
        let (_, attempts, in_doubt) = app.delivery(order).await?;
        assert_eq!((usize::try_from(attempts)?, in_doubt), (mails, true));
        app.stop().await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_live_claim_of_somebody_else_is_waited_for() -> Result<()> {
    let app = TestApp::start().await?;
    let (finished, abandoned) = (OrderId::new(), OrderId::new());
    app.leave_claim(finished, "order_received", 30.0).await?;
    app.leave_claim(abandoned, "order_received", 0.8).await?;
    app.publish(&placed(finished)).await?;
    app.publish(&placed(abandoned)).await?;
    // Whoever holds the first claim says that the mail is sent; the second lease ends without a word.
    app.wait_told(abandoned, &[(FAILED, "unknown")]).await?;
    sqlx::query("update deliveries set state = 'sent', owner = null, lease_until = null where order_id = $1")
        .bind(finished.uuid())
        .execute(&app.database.pool)
        .await?;
    wait_consumed(&app).await?;
    testkit::eventually("both events are done", crate::app::BOUND, async || {
        let done = app.count("select count(*) from processed_events where outcome = 'done'").await?;
        ensure!(done == 3, "{done} events are done");
        Ok(())
    })
    .await?;
    assert_eq!(app.mails()?.len(), 1, "none of the two was sent by us: {:?}", app.mails()?);
    assert_eq!(app.told(finished).await?, []);
    assert_eq!(app.dead_letters().await?, []);
    app.stop().await
}

#[tokio::test(flavor = "multi_thread")]
async fn mails_of_which_nobody_knows_are_counted() -> Result<()> {
    let app = TestApp::start().await?;
    let shown = async |all: i64, recent: i64| {
        let expected = [format!("deliveries_unknown {all}"), format!("deliveries_unknown_recent {recent}")];
        testkit::eventually(format!("{expected:?} are shown"), crate::app::BOUND, async || {
            let metrics = app.metrics().await?;
            let seen: Vec<_> = metrics.lines().filter(|line| line.starts_with("deliveries_unknown")).collect();
            ensure!(seen == expected, "{seen:?}");
            Ok(())
        })
        .await
    };
    let (known, unknown) = (OrderId::new(), OrderId::new());
    app.publish(&placed(known)).await?;
    app.wait_told(known, &[(SENT, "order_received")]).await?;
    shown(0, 0).await?;
    app.leave_claim(unknown, "order_received", -1.0).await?;
    app.publish(&placed(unknown)).await?;
    app.wait_told(unknown, &[(FAILED, "unknown")]).await?;
    shown(1, 1).await?;
    sqlx::query("update deliveries set updated_at = now() - interval '16 minutes'").execute(&app.database.pool).await?;
    let counted = count_unknown(&app.database.pool, Duration::from_secs(15 * 60)).await?;
    assert_eq!(counted, Unknown { all: 1, recent: 0 });
    app.stop().await
}
