//! Results: one JSON file for each scenario and round, and the page that is generated from them.

mod console;
mod model;
mod page;
mod plots;
mod spring;
mod targets;

pub use console::{attempted, paced, smoke};
pub use model::{Provenance, Results, Round, SpringProvenance, is_kept, keep, load, load_spring};
pub use page::{write_page, write_readme};
pub use spring::beside_spring;
pub use targets::Targets;
pub(crate) use targets::median;
