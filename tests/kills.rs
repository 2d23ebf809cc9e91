//! Real processes on a real disk that are killed with SIGKILL at any moment, one after the other (`storm`) and many at once (`soak`): whatever
//! a command had reported as done stays whole, the same command again succeeds, and compactions clear away what the dead left.
//!
//! `COPAL_KILLS` is the number of kills in the storm (50 unless set), `COPAL_SOAK_SECONDS` the time of the soak (15), `COPAL_SEED` the seed of both.
//! The seed decides what is tried; what is hit depends on the machine.

mod common;
#[allow(dead_code, reason = "the storms use a part of it")]
#[path = "cli/space.rs"]
mod space;
#[allow(dead_code, reason = "the storms use a part of it")]
#[path = "cli/support.rs"]
mod support;

mod kills {
    pub(crate) mod aim;
    pub(crate) mod dice;
    pub(crate) mod field;
    mod ledger;
    mod orders;
    mod soak;
    mod storm;
}
