//! Telling of the same trouble seldom.

use std::sync::Mutex;
use std::time::{Duration, Instant};

/// Says when a trouble that comes again and again is to be told: at its first time, then once a while.
#[derive(Debug)]
pub(super) struct Seldom {
    every: Duration,
    told: Mutex<Option<Instant>>,
}

impl Seldom {
    pub(super) fn new(every: Duration) -> Self {
        Self { every, told: Mutex::new(None) }
    }

    /// Whether to tell it now. Where another thread is asking, that one tells it.
    pub(super) fn is_due(&self) -> bool {
        let Ok(mut told) = self.told.try_lock() else { return false };
        let due = told.is_none_or(|at| at.elapsed() >= self.every);
        if due {
            *told = Some(Instant::now());
        }
        due
    }

    /// The trouble is over. True where it had been told.
    pub(super) fn is_over(&self) -> bool {
        self.told.try_lock().is_ok_and(|mut told| told.take().is_some())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_trouble_is_told_once_until_it_is_over() {
        let trouble = Seldom::new(Duration::from_secs(3_600));
        assert!(!trouble.is_over());
        assert_eq!([trouble.is_due(), trouble.is_due(), trouble.is_due()], [true, false, false]);
        assert!(trouble.is_over());
        assert!(trouble.is_due());
    }
}
