//! The consumer's state machine under a seeded simulator.
//!
//! Everything around the machine is a model that is stepped at random from a seed: the broker's log with gaps,
//! duplicates and rebalances ([`sim::broker`]), the database with its inbox, blocked keys, held events and outbox
//! ([`sim::database`], which follows `messaging`'s batch transaction), the gateway behind the calls, and several instances
//! ([`sim::instance`]), each with a real [`machine::Machine`], that crash, become zombies, drain and see their clock jump.
//!
//! What is checked, while it runs and after everything has been healed and has settled ([`sim::check`]): I8, I9, I10,
//! I13 and I16 of the design, that no event is lost, that no effect is doubled, and what the machine promises its shell.
//!
//! `tests/simulation.rs` runs the seeds, `tests/mutants.rs` shows that broken machines are found. A failing seed
//! replays: `SIM_SEED=<seed> cargo test -p simulation --test simulation -- --nocapture`.

#[path = "../../src/machine/mod.rs"]
pub mod machine;
pub mod sim;
