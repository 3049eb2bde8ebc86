//! The contracts as others rely on them: bytes that were published once are read for ever.
#![allow(missing_docs)]

mod envelope;
mod golden;
mod properties;
mod trace;
mod values;

use contracts::Header;

/// Headers of a record, by name.
fn headers(pairs: &[(&str, &str)]) -> Vec<Header> {
    pairs.iter().map(|(name, value)| ((*name).to_owned().into(), Some((*value).to_owned().into()))).collect()
}
