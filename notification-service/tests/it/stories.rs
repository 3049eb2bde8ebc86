//! What customers are told, from the events of their orders; mails into a folder.

use anyhow::{Context as _, Result, ensure};
use contracts::{EventId, OrderId, topics};
use serde_json::json;
use testkit::eventually;

use crate::app::{BOUND, FAILED, SENT, TestApp};
use crate::events::{cancelled, confirmed, placed, placed_by};

#[tokio::test(flavor = "multi_thread")]
async fn each_event_of_an_order_is_one_mail() -> Result<()> {
    let app = TestApp::start().await?;
    let order = OrderId::new();
    app.publish(&placed(order)).await?;
    app.publish(&confirmed(order)).await?;
    app.publish(&cancelled(order)).await?;
    let all = [(SENT, "order_received"), (SENT, "order_confirmed"), (SENT, "order_cancelled")];
    app.wait_told(order, &all).await?;
    let name = |template: &str| format!("{order}.{template}.eml");
    assert_eq!(app.mails()?, [name("order_cancelled"), name("order_confirmed"), name("order_received")]);
    let mail = std::fs::read_to_string(app.mail_dir().join(name("order_cancelled")))?;
    assert!(mail.contains("your payment was declined"), "{mail}");

    let (status, page) = app.get(&format!("/deliveries/{order}")).await?;
    assert_eq!(status, 200);
    let deliveries = page["deliveries"].as_array().context("no deliveries")?;
    assert_eq!(deliveries.len(), 3);
    for delivery in deliveries {
        let template = delivery["template"].as_str().context("no template")?;
        assert_eq!((&delivery["state"], &delivery["attempts"]), (&json!("sent"), &json!(1)));
        assert_eq!(delivery["message_id"], json!(format!("<{template}.{order}@example.com>")));
    }
    let records = app.records(topics::NOTIFICATIONS).await?;
    let value: serde_json::Value = serde_json::from_slice(records[0].payload.as_deref().unwrap_or_default())?;
    assert_eq!(value["message_id"], json!(format!("<order_received.{order}@example.com>")));
    app.stop().await
}

#[tokio::test(flavor = "multi_thread")]
async fn redelivery_of_any_event_has_one_effect() -> Result<()> {
    let app = TestApp::start().await?;
    let order = OrderId::new();
    let story = [placed(order), confirmed(order), cancelled(order)];
    let story: Vec<_> = story.iter().map(|event| (event, EventId::new())).collect();
    for (event, id) in &story {
        app.publish_as(event, *id).await?;
        app.publish_as(event, *id).await?;
    }
    for (event, id) in &story {
        app.publish_as(event, *id).await?;
    }
    let last = OrderId::new();
    app.publish(&placed(last)).await?;
    app.wait_told(last, &[(SENT, "order_received")]).await?;
    let all = [(SENT, "order_received"), (SENT, "order_confirmed"), (SENT, "order_cancelled")];
    app.wait_told(order, &all).await?;
    assert_eq!(app.mails()?.len(), 4, "{:?}", app.mails()?);
    assert_eq!(app.count("select count(*) from processed_events where outcome = 'done'").await?, 4);
    app.stop().await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_published_again_under_another_id_is_no_second_mail() -> Result<()> {
    let app = TestApp::start().await?;
    let (order, last) = (OrderId::new(), OrderId::new());
    for _ in 0..3 {
        app.publish(&placed(order)).await?;
    }
    app.publish(&placed(last)).await?;
    app.wait_told(last, &[(SENT, "order_received")]).await?;
    eventually("all events are done", BOUND, async || {
        let done = app.count("select count(*) from processed_events where outcome = 'done'").await?;
        ensure!(done == 4, "{done} events are done");
        Ok(())
    })
    .await?;
    assert_eq!(app.told(order).await?, [(SENT.to_owned(), "order_received".to_owned())]);
    assert_eq!(app.mails()?.len(), 2, "{:?}", app.mails()?);
    app.stop().await
}

/// The guard removed: without its row nothing knows that the mail was sent, and the folder shows the double. So a test
/// that counts files would see one.
#[tokio::test(flavor = "multi_thread")]
async fn without_its_delivery_a_mail_is_sent_twice_and_the_folder_shows_it() -> Result<()> {
    let app = TestApp::start().await?;
    let order = OrderId::new();
    app.publish(&placed(order)).await?;
    app.wait_told(order, &[(SENT, "order_received")]).await?;
    sqlx::query("delete from deliveries").execute(&app.database.pool).await?;
    app.publish(&placed(order)).await?;
    app.wait_told(order, &[(SENT, "order_received"), (SENT, "order_received")]).await?;
    assert_eq!(app.mails()?, [format!("{order}.order_received.2.eml"), format!("{order}.order_received.eml")]);
    app.stop().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_received_mail_behind_a_cancelled_one_is_late_not_wrong() -> Result<()> {
    let app = TestApp::start().await?;
    let order = OrderId::new();
    app.publish(&cancelled(order)).await?;
    app.publish(&placed(order)).await?;
    app.wait_told(order, &[(SENT, "order_cancelled"), (SENT, "order_received")]).await?;
    assert_eq!(app.mails()?.len(), 2);
    app.stop().await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_address_that_is_none_is_a_dead_letter_and_its_neighbours_are_told() -> Result<()> {
    let app = TestApp::start().await?;
    let (bad, good) = (OrderId::new(), OrderId::new());
    let event = app.publish(&placed_by(bad, "nobody at home")).await?;
    app.publish(&placed(good)).await?;
    app.wait_told(good, &[(SENT, "order_received")]).await?;
    app.wait_told(bad, &[(FAILED, "rejected")]).await?;
    eventually("the dead letter is published", BOUND, async || {
        ensure!(app.dead_letters().await? == [(event.to_string(), "rejected".to_owned())]);
        Ok(())
    })
    .await?;
    let (status, page) = app.get("/deliveries?state=failed").await?;
    assert_eq!((status, &page["deliveries"][0]["order_id"]), (200, &json!(bad)));
    assert_eq!(page["deliveries"][0]["reason"], "rejected");
    // The order goes on: its next mail finds a good address.
    app.publish(&cancelled(bad)).await?;
    app.wait_told(bad, &[(FAILED, "rejected"), (SENT, "order_cancelled")]).await?;
    app.stop().await
}

#[tokio::test(flavor = "multi_thread")]
async fn two_instances_and_one_that_leaves_send_each_mail_once() -> Result<()> {
    let mut app = TestApp::start().await?;
    app.start_instance().await?;
    let orders: Vec<OrderId> = (0..20).map(|_| OrderId::new()).collect();
    for order in &orders {
        app.publish(&placed(*order)).await?;
    }
    app.stop_instance().await?;
    eventually("everybody is told", BOUND, async || {
        let told = app.records(topics::NOTIFICATIONS).await?.len();
        ensure!(told == orders.len(), "{told} are");
        Ok(())
    })
    .await?;
    assert_eq!(app.count("select count(*) from deliveries where state = 'sent' and not in_doubt").await?, 20);
    assert_eq!(app.mails()?.len(), 20, "{:?}", app.mails()?);
    app.stop().await
}

#[tokio::test(flavor = "multi_thread")]
async fn templates_of_a_folder_replace_the_built_in_ones() -> Result<()> {
    let templates = tempfile::tempdir()?;
    std::fs::write(
        templates.path().join("order_received.txt"),
        "Subject: Ahoy {{order_number}}\n\nYours: {{total}}\n",
    )?;
    let app = TestApp::start_with(|config| config.template_dir = Some(templates.path().to_owned())).await?;
    let order = OrderId::new();
    app.publish(&placed(order)).await?;
    app.wait_told(order, &[(SENT, "order_received")]).await?;
    let mail = std::fs::read_to_string(app.mail_dir().join(format!("{order}.order_received.eml")))?;
    assert!(mail.contains("Subject: Ahoy ") && mail.contains("Yours: 41.29 EUR"), "{mail}");
    app.stop().await
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_refuse_what_they_cannot_show() -> Result<()> {
    let app = TestApp::start().await?;
    for (path, status) in [
        ("/deliveries", 400),
        ("/deliveries?state=sent", 400),
        ("/deliveries?state=unknown&limit=0", 400),
        ("/deliveries?state=unknown&after=x", 400),
        ("/deliveries/no-uuid", 404),
        ("/deliveries/01939d2c-0000-7000-8000-0000abcd1234", 404),
        ("/deliveries?state=unknown&after=01939d2c-0000-7000-8000-0000abcd1234.order_received", 200),
    ] {
        assert_eq!(app.get(path).await?.0, status, "{path}");
    }
    for _ in 0..3 {
        app.leave_claim(OrderId::new(), "order_received", 0.0).await?;
    }
    sqlx::query("update deliveries set state = 'unknown', owner = null, lease_until = null")
        .execute(&app.database.pool)
        .await?;
    let (_, first) = app.get("/deliveries?state=unknown&limit=2").await?;
    let next = first["next"].as_str().context("no next page")?;
    let (_, second) = app.get(&format!("/deliveries?state=unknown&limit=2&after={next}")).await?;
    assert_eq!(first["deliveries"].as_array().map(Vec::len), Some(2));
    assert_eq!(second["deliveries"].as_array().map(Vec::len), Some(1));
    assert_eq!(second.get("next"), None);
    app.stop().await
}
