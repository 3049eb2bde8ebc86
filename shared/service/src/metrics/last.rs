//! What was counted last, for gauges of what has to be asked for.

use std::sync::{Arc, Mutex, PoisonError};

/// What was counted last, shared between who counts on a timer and the callbacks of gauges. Nothing until it was counted, and
/// nothing once counting fails: an old number would be a lie.
#[derive(Debug)]
pub struct Last<T>(Arc<Mutex<Option<T>>>);

impl<T: Copy> Last<T> {
    /// What was counted last.
    pub fn get(&self) -> Option<T> {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes what was counted now; `None` where it could not be.
    pub fn set(&self, counted: Option<T>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = counted;
    }
}

impl<T> Default for Last<T> {
    fn default() -> Self {
        Self(Arc::default())
    }
}

impl<T> Clone for Last<T> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}
