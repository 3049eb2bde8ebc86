//! What becomes of a dead letter that a command names.

use contracts::EventId;

/// What became of it, or why nothing did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Answer {
    /// It is on its way to the group.
    Redriven,
    /// An edited event is on its way in its place.
    Edited,
    /// It is given up.
    Discarded,
    /// It was redriven before, at this attempt.
    AlreadyRedriven,
    /// An edited event took its place before.
    AlreadyEdited,
    /// It was given up before.
    AlreadyDiscarded,
    /// Its effects are committed.
    Done,
    /// It comes back on a retry topic.
    Retrying,
    /// It waits behind an earlier event of its key.
    Held,
    /// It was redriven and died again: only the letter of that death decides.
    DiedAgain,
    /// The inbox doesn't know it as dead: it is of another installation, or of a database before it was restored.
    Unknown,
    /// It is another group's.
    OtherGroup,
    /// It lacks what the suite writes into dead letters.
    Unreadable,
    /// It was redriven as often as may be.
    TooOften,
    /// It is older than the inbox remembers, so it would be given up again.
    Expired,
    /// The edited event can't be read, or is about another order; or the letter lacks the value, which was too large for it.
    Invalid,
    /// The edited event contradicts what was carried out.
    Contradiction,
}

impl Answer {
    /// Every answer.
    pub const ALL: [Self; 17] = [
        Self::Redriven,
        Self::Edited,
        Self::Discarded,
        Self::AlreadyRedriven,
        Self::AlreadyEdited,
        Self::AlreadyDiscarded,
        Self::Done,
        Self::Retrying,
        Self::Held,
        Self::DiedAgain,
        Self::Unknown,
        Self::OtherGroup,
        Self::Unreadable,
        Self::TooOften,
        Self::Expired,
        Self::Invalid,
        Self::Contradiction,
    ];

    /// The stable name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Redriven => "redriven",
            Self::Edited => "edited",
            Self::Discarded => "discarded",
            Self::AlreadyRedriven => "already_redriven",
            Self::AlreadyEdited => "already_edited",
            Self::AlreadyDiscarded => "already_discarded",
            Self::Done => "done",
            Self::Retrying => "retrying",
            Self::Held => "held",
            Self::DiedAgain => "died_again",
            Self::Unknown => "unknown",
            Self::OtherGroup => "other_group",
            Self::Unreadable => "unreadable",
            Self::TooOften => "too_often",
            Self::Expired => "expired",
            Self::Invalid => "invalid",
            Self::Contradiction => "contradiction",
        }
    }

    /// Whether something was changed.
    pub fn changes(self) -> bool {
        matches!(self, Self::Redriven | Self::Edited | Self::Discarded)
    }

    /// Whether it was refused, and stays dead until a person does something else about it.
    pub fn is_refusal(self) -> bool {
        matches!(
            self,
            Self::Unknown
                | Self::OtherGroup
                | Self::Unreadable
                | Self::TooOften
                | Self::Expired
                | Self::Invalid
                | Self::Contradiction
        )
    }
}

/// One letter's answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answered {
    /// The event that died; `None` where the letter doesn't tell.
    pub event_id: Option<EventId>,
    /// The attempt that it died of.
    pub dead_attempt: Option<u16>,
    /// What became of it.
    pub answer: Answer,
    /// More, for people.
    pub detail: Option<String>,
    /// The event that took its place.
    pub new_event_id: Option<EventId>,
}
