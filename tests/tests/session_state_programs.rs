//! PostgreSQL as the oracle for random programs over the state of sessions. How it works, and which variables choose seed
//! and length, is told in `src/state_programs`.

use pgsluice_tests::Version;
use pgsluice_tests::state_programs::{Plan, campaign};

/// Programs per version, unless the environment says another number.
const PROGRAMS: u64 = 300;

#[test]
fn on_the_installed_version() {
    campaign(Version::Installed, Plan::from_env(PROGRAMS));
}

#[test]
fn on_version_18() {
    campaign(Version::V18, Plan::from_env(PROGRAMS));
}
