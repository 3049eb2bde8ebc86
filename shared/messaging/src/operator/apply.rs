//! One command's batch in one transaction.

use std::collections::{BTreeSet, HashMap};

use contracts::EventId;
use jiff::Timestamp;
use sqlx::PgConnection;

use super::audit::{self, Action, Entry, Taken};
use super::letter::{self, Letter};
use super::{Answer, Answered, Command, DeadLetter, Operator, Order, clock};
use crate::blocked::{self, Block, OrderKey, State};
use crate::failure::Failure;
use crate::identity::Identity;
use crate::inbox::{self, Outcome};
use crate::outbox::Outgoing;
use crate::transaction::go_on;

/// What the transaction knows under its locks.
struct Known {
    inbox: HashMap<Identity, (Outcome, u16)>,
    taken: HashMap<EventId, Vec<Taken>>,
    blocks: HashMap<OrderKey, Block>,
    now: Timestamp,
}

/// What the transaction is going to write.
struct Writing<'a> {
    outcomes: Vec<(Identity, Outcome, u16)>,
    entries: Vec<Entry<'a>>,
    out: Outgoing,
}

/// A letter's answer so far.
type Said = (Answer, Option<String>, Option<EventId>);

pub(super) async fn once(
    operator: &Operator,
    command: &Command,
    records: &[DeadLetter],
) -> Result<Vec<Answered>, Failure> {
    let letters: Vec<Option<Letter<'_>>> = records.iter().map(Letter::read).collect();
    let mut tx = operator.db.begin().await?;
    let known = look(&mut tx, letters.iter().flatten()).await?;
    let mut writing =
        Writing { outcomes: Vec::new(), entries: Vec::new(), out: Outgoing::new(&operator.settings.service) };
    // In key order, so that blocks and aggregates are locked as everybody locks them.
    let mut order: Vec<usize> = (0..letters.len()).collect();
    order.sort_by_cached_key(|&index| letters[index].as_ref().map(|letter| (letter.order_key(), letter.identity)));
    let mut said: Vec<Option<Said>> = letters.iter().map(|_| None).collect();
    let mut decided: HashMap<Identity, Said> = HashMap::new();
    for index in order {
        let Some(letter) = &letters[index] else { continue };
        let found = match (judge(operator, command, letter, &known), decided.get(&letter.identity)) {
            (Some((answer, detail)), _) => (answer, detail, edited_into(letter, &known)),
            // A topic may hold a letter twice.
            (None, Some(first)) => twice(first),
            (None, None) => {
                let found = decide(operator, command, letter, &known, &mut tx, &mut writing).await?;
                decided.insert(letter.identity, found.clone());
                found
            }
        };
        said[index] = Some(found);
    }
    inbox::record(&mut tx, &writing.outcomes).await?;
    audit::write(&mut tx, command, &writing.entries).await?;
    writing.out.write(&mut tx).await?;
    if command.dry_run {
        tx.rollback().await?;
    } else {
        tx.commit().await?;
        writing.out.committed();
    }
    Ok(letters.iter().zip(said).map(|(letter, said)| answered(command, letter.as_ref(), said)).collect())
}

/// Locks the letters' inbox rows and blocks, each sorted, and reads what was decided about them before.
async fn look<'l, 'a: 'l>(
    db: &mut PgConnection,
    letters: impl Iterator<Item = &'l Letter<'a>> + Clone,
) -> Result<Known, Failure> {
    let identities: Vec<Identity> =
        letters.clone().map(|letter| letter.identity).collect::<BTreeSet<_>>().into_iter().collect();
    let keys: Vec<OrderKey> = letters.filter_map(Letter::order_key).collect::<BTreeSet<_>>().into_iter().collect();
    let inbox = inbox::lock(db, &identities).await?;
    let taken = audit::of_events(db, &identities).await?;
    let blocks = blocked::lock_for_release(db, &keys).await?;
    let now = clock(db).await?;
    Ok(Known { inbox, taken, blocks, now })
}

/// Why nothing is to be done about a letter, where that is so.
fn judge(
    operator: &Operator,
    command: &Command,
    letter: &Letter<'_>,
    known: &Known,
) -> Option<(Answer, Option<String>)> {
    if letter.group != operator.settings.group_id() {
        return Some((Answer::OtherGroup, Some(format!("it is {}'s", letter.group))));
    }
    let taken = known.taken.get(&letter.identity.event_id).map_or(&[][..], Vec::as_slice);
    let at_this_death =
        |action| taken.iter().find(|taken| taken.dead_attempt == letter.dead_attempt && taken.action == action);
    let by = |taken: &Taken| Some(format!("by {} at {}", taken.by, taken.at.strftime("%Y-%m-%d %H:%M:%S UTC")));
    match known.inbox.get(&letter.identity) {
        None => return Some((Answer::Unknown, Some("the inbox has never seen this event".to_owned()))),
        Some((Outcome::Done, attempt)) => return Some((Answer::Done, Some(format!("at attempt {attempt}")))),
        Some((Outcome::Held, _)) => return Some((Answer::Held, None)),
        Some((Outcome::Retrying, attempt)) => {
            return Some((Answer::Retrying, Some(format!("after attempt {attempt}"))));
        }
        Some((Outcome::Discarded, _)) => {
            return Some(match at_this_death(Action::Edit) {
                Some(edit) => (Answer::AlreadyEdited, by(edit)),
                None => (Answer::AlreadyDiscarded, taken.last().and_then(by)),
            });
        }
        Some((Outcome::Dead, attempt)) if *attempt > letter.dead_attempt => {
            return Some((Answer::DiedAgain, Some(format!("at attempt {attempt}"))));
        }
        Some((Outcome::Dead, attempt)) if *attempt < letter.dead_attempt => {
            return Some((Answer::Unknown, Some(format!("the inbox knows it as dead at attempt {attempt}"))));
        }
        Some((Outcome::Dead, _)) => {}
    }
    if command.order == Order::Discard {
        return None;
    }
    if let Some(redrive) = at_this_death(Action::Redrive) {
        return Some((Answer::AlreadyRedriven, by(redrive)));
    }
    if let Some(lacks) = letter.lacks().filter(|_| letter.record.edited.is_none()) {
        return Some((Answer::Invalid, Some(lacks)));
    }
    let (redrives, limit) = (redrives(letter, taken), operator.settings.redrive_limit);
    if redrives >= limit && !command.forced {
        return Some((
            Answer::TooOften,
            Some(format!("redriven {redrives} times, and died each time; the limit is {limit}")),
        ));
    }
    let forgotten = letter.expired || letter.identity.is_expired(known.now, operator.settings.inbox_days);
    if forgotten && letter.record.edited.is_none() {
        let detail = format!("the event is of {}: it would be given up again", letter.identity.day);
        return Some((Answer::Expired, Some(detail)));
    }
    None
}

/// How often an event was redriven: by its own count or the audit's, whichever is more.
fn redrives(letter: &Letter<'_>, taken: &[Taken]) -> u16 {
    let audited = taken.iter().filter(|taken| taken.action == Action::Redrive).count();
    letter.redrives.max(u16::try_from(audited).unwrap_or(u16::MAX))
}

async fn decide<'a>(
    operator: &Operator,
    command: &Command,
    letter: &Letter<'a>,
    known: &Known,
    db: &mut PgConnection,
    writing: &mut Writing<'a>,
) -> Result<Said, Failure> {
    let count = redrives(letter, known.taken.get(&letter.identity.event_id).map_or(&[][..], Vec::as_slice)) + 1;
    let key = letter.order_key();
    let block =
        key.as_ref().and_then(|key| known.blocks.get(key)).filter(|block| block.head == letter.identity.event_id);
    let head = key.as_ref().zip(block);
    match (command.order, &letter.record.edited) {
        (Order::Discard, _) => {
            writing.outcomes.push((letter.identity, Outcome::Discarded, letter.dead_attempt));
            if let Some((key, block)) = head
                && block.state != State::Draining
            {
                go_on(&operator.settings, db, key, &mut writing.out).await?;
            }
            writing.note(letter, Action::Discard, None);
            Ok((Answer::Discarded, None, None))
        }
        (Order::Redrive, None) => {
            let row = match letter::row(&operator.settings, letter.redriven(count)) {
                Ok(row) => row,
                Err(failure) => return Ok((Answer::Invalid, Some(failure.message), None)),
            };
            writing.out.push_redrive(row);
            if let Some((key, block)) = head
                && block.state == State::Parked
            {
                // In front of what is held behind it: the head's own return passes.
                blocked::replace_head(db, key, letter.identity, known.now).await?;
            }
            writing.note(letter, Action::Redrive, None);
            Ok((Answer::Redriven, None, None))
        }
        (Order::Redrive, Some(_)) => {
            let new = letter::new_identity(known.now);
            let edited = letter.edited(new, count);
            if let Some((answer, detail)) = operator.edits.check(db, letter.redriven(count), edited.clone()).await? {
                return Ok((answer, Some(detail), None));
            }
            let row = match letter::row(&operator.settings, edited) {
                Ok(row) => row,
                Err(failure) => return Ok((Answer::Invalid, Some(failure.message), None)),
            };
            writing.out.push_redrive(row);
            writing.outcomes.push((letter.identity, Outcome::Discarded, letter.dead_attempt));
            if let Some((key, _)) = head {
                blocked::replace_head(db, key, new, known.now).await?;
            }
            writing.note(letter, Action::Edit, Some(new.event_id));
            Ok((Answer::Edited, None, Some(new.event_id)))
        }
    }
}

impl<'a> Writing<'a> {
    fn note(&mut self, letter: &Letter<'a>, action: Action, new_event_id: Option<EventId>) {
        self.entries.push(Entry {
            action,
            identity: letter.identity,
            dead_attempt: letter.dead_attempt,
            new_event_id,
            topic: letter.topic,
            key: letter.record.key.as_deref(),
            event_type: letter.event_type(),
        });
    }
}

/// The answer to the second copy of a letter in one batch.
fn twice((answer, detail, new_event_id): &Said) -> Said {
    let answer = match answer {
        Answer::Redriven => Answer::AlreadyRedriven,
        Answer::Edited => Answer::AlreadyEdited,
        Answer::Discarded => Answer::AlreadyDiscarded,
        refused => *refused,
    };
    (answer, detail.clone(), *new_event_id)
}

fn edited_into(letter: &Letter<'_>, known: &Known) -> Option<EventId> {
    let taken = known.taken.get(&letter.identity.event_id)?;
    taken.iter().rev().find_map(|taken| taken.new_event_id)
}

fn answered(command: &Command, letter: Option<&Letter<'_>>, said: Option<Said>) -> Answered {
    let (answer, detail, new_event_id) = said.unwrap_or((Answer::Unreadable, None, None));
    if !command.dry_run
        && answer.changes()
        && let Some(letter) = letter
    {
        tracing::info!(
            event.id = %letter.identity.event_id, dead_attempt = letter.dead_attempt, command_id = %command.id,
            by = %command.by, answer = answer.as_str(), "an operator decided about a dead letter"
        );
    }
    Answered {
        event_id: letter.map(|letter| letter.identity.event_id),
        dead_attempt: letter.map(|letter| letter.dead_attempt),
        answer,
        detail,
        // What a dry run made up exists nowhere.
        new_event_id: new_event_id.filter(|_| !(command.dry_run && answer == Answer::Edited)),
    }
}
