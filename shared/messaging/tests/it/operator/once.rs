//! Each guard against doing something twice, or something that nobody decided.

use anyhow::Result;
use contracts::EventId;
use messaging::Settings;
use messaging::operator::{Action, Answer, Command, DeadLetter, Order};
use testkit::Record;

use super::{Desk, command, header, only, set};
use crate::rig::{Rig, placed};

#[tokio::test(flavor = "multi_thread")]
async fn a_redriven_event_comes_home_clean_and_takes_effect_once() -> Result<()> {
    let desk = Desk::new(&[50]).await?;
    let instance = desk.start();
    let id = desk.rig.publish(&placed("poison")).await?;
    let letter = only(desk.letters(1).await?)?;
    desk.handler.mend();
    let twice = [letter.clone(), letter.clone()];
    assert_eq!(desk.redrive(&twice).await?, [Answer::Redriven, Answer::AlreadyRedriven]);
    let applied = desk.rig.wait_applied(1).await?;
    assert_eq!((applied[0].event_id, applied[0].attempt), (id, 2), "the attempt goes on");
    assert_eq!(desk.rig.outcome(id).await?, Some(("done".to_owned(), 2)));

    let back = only(desk.rig.wait_records("ledger.retry.0", 1).await?)?;
    assert_clean(&back, &letter);
    assert_eq!(back.header("ce_id"), Some(id.to_string().as_str()));
    assert_eq!((back.header("retry-attempt"), back.header("redrive-count")), (Some("2"), Some("1")));
    assert_eq!(back.header("retry-original-topic"), Some("orders"));

    assert_eq!(desk.redrive(&[letter]).await?, [Answer::Done]);
    assert_eq!(desk.actions().await?, [(Action::Redrive, id, 1)]);
    desk.rig.wait_settled().await?;
    assert_eq!(desk.rig.records("ledger.retry.0").await?.len(), 1);
    instance.stop().await
}

/// Nothing of the death is left, the trace is the same, and there is one.
fn assert_clean(back: &Record, letter: &DeadLetter) {
    let stale = |name: &str| {
        name.starts_with("dlt-")
            || name.starts_with("kafka_dlt-")
            || matches!(name, "retry-due-at" | "retry-error-class" | "retry-error-message" | "retry-first-failed-at")
    };
    let left: Vec<_> = back.headers.iter().map(|(name, _)| name.as_str()).filter(|name| stale(name)).collect();
    assert!(left.is_empty(), "{left:?}");
    assert_eq!(back.headers.iter().filter(|(name, _)| name == "traceparent").count(), 1);
    assert_eq!(back.header("traceparent"), header(letter, "traceparent"));
    assert_eq!((back.key.as_deref(), back.payload.as_deref()), (letter.key.as_deref(), letter.value.as_deref()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redrive_that_was_interrupted_is_resumed_by_giving_it_again() -> Result<()> {
    let desk = Desk::new(&[50]).await?;
    let instance = desk.start();
    for _ in 0..6 {
        desk.rig.publish(&placed("poison")).await?;
    }
    let letters = desk.letters(6).await?;
    // Nothing moves, so only what was decided tells the first half from the second.
    instance.stop().await?;
    desk.handler.mend();
    assert_eq!(desk.redrive(&letters[..3]).await?, [Answer::Redriven; 3]);
    let again = desk.redrive(&letters).await?;
    assert_eq!((&again[..3], &again[3..]), (&[Answer::AlreadyRedriven; 3][..], &[Answer::Redriven; 3][..]));
    assert_eq!(desk.redrive(&letters).await?, [Answer::AlreadyRedriven; 6]);
    assert_eq!(desk.count("select count(*) from outbox").await?, 6);
    let instance = desk.start();
    desk.rig.wait_applied(6).await?;
    assert_eq!(desk.redrive(&letters).await?, [Answer::Done; 6]);
    instance.stop().await
}

#[tokio::test(flavor = "multi_thread")]
async fn two_operators_at_once_redrive_once() -> Result<()> {
    let desk = Desk::new(&[50]).await?;
    let instance = desk.start();
    for _ in 0..20 {
        desk.rig.publish(&placed("poison")).await?;
    }
    let letters = desk.letters(20).await?;
    instance.stop().await?;
    let backwards: Vec<DeadLetter> = letters.iter().rev().cloned().collect();
    let all = tokio::try_join!(
        desk.redrive(&letters),
        desk.redrive(&backwards),
        desk.redrive(&letters),
        desk.redrive(&backwards)
    )?;
    let redriven = [all.0, all.1, all.2, all.3].concat();
    assert_eq!(redriven.iter().filter(|answer| **answer == Answer::Redriven).count(), 20);
    assert_eq!(desk.count("select count(*) from outbox").await?, 20);
    assert_eq!(desk.count("select count(*) from operator_actions").await?, 20);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dry_run_answers_the_same_and_changes_nothing() -> Result<()> {
    let desk = Desk::new(&[50]).await?;
    let instance = desk.start();
    desk.rig.publish(&placed("poison")).await?;
    let letters = desk.letters(1).await?;
    for order in [Order::Redrive, Order::Discard] {
        let dry = Command { dry_run: true, ..command(order) };
        let said = desk.operator.carry_out(&dry, &letters).await?;
        assert!(said[0].answer.changes(), "{said:?}");
    }
    assert!(desk.actions().await?.is_empty());
    assert_eq!(desk.count("select count(*) from outbox").await?, 0);
    assert_eq!(desk.redrive(&letters).await?, [Answer::Redriven]);
    instance.stop().await
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_discarded_never_runs_also_when_it_was_redriven_before() -> Result<()> {
    let desk = Desk::new(&[50]).await?;
    let instance = desk.start();
    let id = desk.rig.publish(&placed("poison")).await?;
    let letters = desk.letters(1).await?;
    instance.stop().await?;
    desk.handler.mend();
    assert_eq!(desk.redrive(&letters).await?, [Answer::Redriven]);
    assert_eq!(desk.discard(&letters).await?, [Answer::Discarded]);
    assert_eq!(desk.discard(&letters).await?, [Answer::AlreadyDiscarded]);
    assert_eq!(desk.redrive(&letters).await?, [Answer::AlreadyDiscarded]);
    let instance = desk.start();
    desk.rig.wait_records("ledger.retry.0", 1).await?;
    let witness = desk.rig.publish(&placed("tok")).await?;
    let applied = desk.rig.wait_applied(1).await?;
    assert_eq!(applied[0].event_id, witness);
    assert_eq!(desk.rig.outcome(id).await?, Some(("discarded".to_owned(), 1)));
    assert_eq!(desk.actions().await?, [(Action::Redrive, id, 1), (Action::Discard, id, 1)]);
    // The stop drains what was taken, the redriven record among it.
    instance.stop().await?;
    assert_eq!(desk.rig.applied().await?.len(), 1);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_dies_each_time_is_redriven_so_often_and_then_by_force_only() -> Result<()> {
    let mut rig = Rig::new(&[50]).await?;
    rig.settings = Settings { redrive_limit: 2, ..rig.settings };
    let desk = Desk::of(rig);
    let instance = desk.start();
    let id = desk.rig.publish(&placed("poison")).await?;
    for death in 1..=2 {
        let letters = desk.letters(death).await?;
        let newest = newest(&letters);
        assert_eq!(desk.redrive(std::slice::from_ref(&newest)).await?, [Answer::Redriven], "death {death}");
        desk.wait_dead_at(id, i16::try_from(death)? + 1).await?;
    }
    let letters = desk.letters(3).await?;
    let last = newest(&letters);
    assert_eq!(header(&last, "redrive-count"), Some("2"), "the letter counts too");
    // Older letters of the same event decide nothing.
    let old: Vec<_> = letters.iter().filter(|letter| header(letter, "dlt-attempts") != Some("3")).cloned().collect();
    assert_eq!(desk.redrive(&old).await?, [Answer::DiedAgain; 2]);
    assert_eq!(desk.discard(&old).await?, [Answer::DiedAgain; 2]);

    // Neither count can be forgotten: not the database's, where a letter has lost its own, and the other way round.
    assert_eq!(desk.redrive(std::slice::from_ref(&last)).await?, [Answer::TooOften]);
    assert_eq!(desk.redrive(&[set(&last, "redrive-count", None)]).await?, [Answer::TooOften]);
    sqlx::query("delete from operator_actions").execute(&desk.rig.db.pool).await?;
    assert_eq!(desk.redrive(std::slice::from_ref(&last)).await?, [Answer::TooOften]);
    desk.handler.mend();
    let forced = Command { forced: true, ..command(Order::Redrive) };
    assert_eq!(desk.operator.carry_out(&forced, &[last]).await?[0].answer, Answer::Redriven);
    assert_eq!(desk.rig.wait_applied(1).await?[0].attempt, 4);
    instance.stop().await
}

/// The letter of the last death.
fn newest(letters: &[DeadLetter]) -> DeadLetter {
    let attempts = |letter: &&DeadLetter| header(letter, "dlt-attempts").and_then(|text| text.parse::<u16>().ok());
    letters.iter().max_by_key(attempts).expect("a letter").clone()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redriven_event_goes_through_all_its_tiers_again() -> Result<()> {
    let desk = Desk::new(&[50, 50]).await?;
    let instance = desk.rig.start();
    // Refused by the ledger at attempts 1 to 5; each life has three.
    let id = desk.rig.publish(&placed("fail:5")).await?;
    let letters = desk.letters(1).await?;
    assert_eq!(header(&letters[0], "dlt-attempts"), Some("3"));
    assert_eq!(desk.redrive(&letters).await?, [Answer::Redriven]);
    let applied = desk.rig.wait_applied(1).await?;
    assert_eq!((applied[0].event_id, applied[0].attempt), (id, 6));
    let tiers = [desk.rig.records("ledger.retry.1").await?.len(), desk.rig.records("ledger.retry.2").await?.len()];
    assert_eq!(tiers, [2, 2]);
    instance.stop().await
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_this_group_s_dead_letter_is_told_apart_and_left_alone() -> Result<()> {
    let desk = Desk::new(&[50]).await?;
    let instance = desk.start();
    desk.rig.publish(&placed("poison")).await?;
    let letter = only(desk.letters(1).await?)?;
    let cases = [
        (set(&letter, "dlt-group", Some("another")), Answer::OtherGroup),
        (set(&letter, "dlt-attempts", None), Answer::Unreadable),
        (set(&letter, "inbox-id", Some("no-uuid")), Answer::Unreadable),
        (set(&letter, "inbox-id", Some(&EventId::new().to_string())), Answer::Unknown),
        (set(&letter, "dlt-attempts", Some("2")), Answer::Unknown),
        (set(&letter, "dlt-reason", Some("expired")), Answer::Expired),
    ];
    for (letter, expected) in cases {
        assert_eq!(desk.redrive(std::slice::from_ref(&letter)).await?, [expected], "{:?}", letter.headers);
    }
    assert_eq!(desk.count("select count(*) from operator_actions").await?, 0);
    assert_eq!(desk.count("select count(*) from outbox").await?, 0);
    let too_many = vec![letter; messaging::operator::MAX_LETTERS + 1];
    assert!(desk.operator.carry_out(&command(Order::Redrive), &too_many).await.is_err());
    instance.stop().await
}
