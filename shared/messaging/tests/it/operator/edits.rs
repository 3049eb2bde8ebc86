//! Edited payloads: another event in the place of the one that died.

use anyhow::{Context, Result, ensure};
use contracts::envelope::text_header;
use contracts::{EventId, OrderId};
use messaging::operator::{Action, Answer, Answered, DeadLetter, Order};
use messaging::{AfterDeadLetter, Settings};

use super::{CONTRADICTION, Desk, only};
use crate::rig::{Rig, cancelled, placed_for};

fn edited(letter: &DeadLetter, change: impl FnOnce(&mut serde_json::Value)) -> Result<DeadLetter> {
    let mut json = serde_json::from_slice(letter.value.as_deref().context("a value")?)?;
    change(&mut json);
    Ok(DeadLetter { edited: Some(serde_json::to_vec(&json)?.into()), ..letter.clone() })
}

async fn edit(desk: &Desk, letter: DeadLetter) -> Result<Answered> {
    only(desk.give(Order::Redrive, &[letter]).await?)
}

#[tokio::test(flavor = "multi_thread")]
async fn an_edited_event_takes_the_old_one_s_place_in_front_of_what_is_held() -> Result<()> {
    let mut rig = Rig::new(&[50]).await?;
    rig.settings = Settings { after_dead_letter: AfterDeadLetter::Hold, ..rig.settings };
    let (desk, order) = (Desk::of(rig), OrderId::new());
    let instance = desk.start();
    let old = desk.rig.publish(&placed_for(order, "poison")).await?;
    desk.wait_dead_at(old, 1).await?;
    let later = desk.rig.publish(&cancelled(order)).await?;
    desk.rig.wait_outcome(later, "held").await?;
    let letter = only(desk.letters(1).await?)?;
    let mended = edited(&letter, |json| json["payment_method"] = "tok".into())?;

    let first = edit(&desk, mended.clone()).await?;
    let new = first.new_event_id.context("a new event")?;
    assert_eq!(first.answer, Answer::Edited);
    desk.rig.wait_applied(2).await?;
    let applied: Vec<EventId> = desk.rig.applied().await?.iter().map(|applied| applied.event_id).collect();
    assert_eq!(applied, [new, later]);
    assert_eq!(desk.rig.outcome(old).await?, Some(("discarded".to_owned(), 1)));
    assert_eq!(desk.rig.outcome(new).await?, Some(("done".to_owned(), 2)));
    desk.rig.wait_settled().await?;

    let back = desk.rig.wait_records("ledger.retry.0", 2).await?;
    let back =
        back.iter().find(|record| record.header("redrive-edited-from").is_some()).context("the edited record")?;
    let (old_text, new_text) = (old.to_string(), new.to_string());
    assert_eq!(back.header("redrive-edited-from"), Some(old_text.as_str()));
    assert_eq!(back.header("ce_causationid"), Some(old_text.as_str()));
    assert_eq!((back.header("ce_id"), back.header("inbox-id")), (Some(new_text.as_str()), Some(new_text.as_str())));
    assert_eq!(back.headers.iter().filter(|(name, _)| name == "ce_id").count(), 1);

    // Again, as it was or edited: nothing more happens.
    let again = edit(&desk, mended).await?;
    assert_eq!((again.answer, again.new_event_id), (Answer::AlreadyEdited, Some(new)));
    assert_eq!(desk.redrive(&[letter]).await?, [Answer::AlreadyEdited]);
    assert_eq!(desk.actions().await?, [(Action::Edit, old, 1)]);
    instance.stop().await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_edit_that_can_not_be_read_or_contradicts_what_was_done_is_refused() -> Result<()> {
    let (desk, order) = (Desk::new(&[50]).await?, OrderId::new());
    let instance = desk.start();
    let id = desk.rig.publish(&placed_for(order, "poison")).await?;
    let letter = only(desk.letters(1).await?)?;
    let cases = [
        (edited(&letter, |json| json["total"]["amount_minor"] = CONTRADICTION.into())?, Answer::Contradiction),
        (edited(&letter, |json| json["total"] = "many".into())?, Answer::Invalid),
        (edited(&letter, |json| json["order_id"] = OrderId::new().to_string().into())?, Answer::Invalid),
        (DeadLetter { edited: Some("not json".into()), ..letter.clone() }, Answer::Invalid),
    ];
    for (letter, expected) in cases {
        let said = edit(&desk, letter).await?;
        assert_eq!(said.answer, expected, "{said:?}");
        ensure!(said.detail.is_some(), "{said:?} gives no reason");
    }
    assert_eq!(desk.rig.outcome(id).await?, Some(("dead".to_owned(), 1)));
    assert!(desk.actions().await?.is_empty());
    assert_eq!(desk.count("select count(*) from outbox").await?, 0);
    instance.stop().await
}

#[tokio::test(flavor = "multi_thread")]
async fn what_could_not_be_read_can_be_mended_by_hand() -> Result<()> {
    let (desk, order) = (Desk::new(&[50]).await?, OrderId::new());
    let instance = desk.start();
    let headers = [("ce_specversion", "1.0"), ("ce_type", "order.placed.v1"), ("ce_id", "no-uuid")];
    let headers = headers.map(|(name, value)| text_header(name, value));
    desk.rig.publish_raw(&order.to_string(), &headers, b"{\"order_id\": broken").await?;
    let letter = only(desk.letters(1).await?)?;
    let value = serde_json::to_vec(&placed_for(order, "tok"))?;
    let said = edit(&desk, DeadLetter { edited: Some(value.into()), ..letter }).await?;
    assert_eq!(said.answer, Answer::Edited, "{said:?}");
    assert_eq!(Some(desk.rig.wait_applied(1).await?[0].event_id), said.new_event_id);
    instance.stop().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_letter_that_lacks_its_value_goes_back_with_another_one_only() -> Result<()> {
    let desk = Desk::new(&[50]).await?;
    let instance = desk.start();
    let (order, other) = (OrderId::new(), OrderId::new());
    for order in [order, other] {
        desk.rig.publish(&placed_for(order, "poison")).await?;
    }
    let letters = desk.letters(2).await?;
    let mut mended = Vec::new();
    for letter in &letters {
        mended.push(edited(letter, |json| json["payment_method"] = "tok".into())?);
    }
    // As they are where the value was too large.
    let lacking = |letter: &DeadLetter| DeadLetter {
        value: None,
        ..super::set(letter, messaging::dead_letter::names::VALUE_OMITTED, Some("3000000"))
    };
    let refused = only(desk.give(Order::Redrive, &[lacking(&letters[0])]).await?)?;
    let place = |name: &str| super::header(&letters[0], name).unwrap_or_default().to_owned();
    let (partition, offset) = (place("dlt-original-partition"), place("dlt-original-offset"));
    let detail = format!(
        "its value of 3000000 bytes is too large for a letter, and was left at orders, partition {partition}, \
         offset {offset}"
    );
    assert_eq!((refused.answer, refused.detail), (Answer::Invalid, Some(detail)));
    assert_eq!(desk.actions().await?, []);

    assert_eq!(edit(&desk, lacking(&mended[0])).await?.answer, Answer::Edited);
    let applied = desk.rig.wait_applied(1).await?;
    assert_eq!(Some(applied[0].order_id.to_string().as_bytes()), letters[0].key.as_deref());
    assert_eq!(desk.discard(&[lacking(&letters[1])]).await?, [Answer::Discarded]);
    instance.stop().await
}
