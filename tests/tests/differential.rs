//! PostgreSQL as the oracle for sequences of messages that nobody thought of, and for those that once went wrong. How it
//! works, and which variables choose seed and length, is told in `src/differential`.

use std::path::PathBuf;

use pgsluice_tests::Version;
use pgsluice_tests::differential::{Case, Lane, Plan, campaign, replay};

/// Generated cases per version, unless the environment says another number.
const SEQUENCES: u64 = 3000;

#[test]
fn generated_sequences_on_the_installed_version() {
    campaign(Version::Installed, Plan::from_env(SEQUENCES));
}

#[test]
fn generated_sequences_on_version_18() {
    campaign(Version::V18, Plan::from_env(SEQUENCES));
}

#[test]
fn kept_cases() {
    let kept = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("differential");
    let directory = std::env::var_os("PGSLUICE_DIFF_CASES").map_or(kept, PathBuf::from);
    let mut files: Vec<_> = std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    assert!(!files.is_empty());
    for (version, max_prepared) in Version::ALL.iter().flat_map(|&version| [(version, 200), (version, 1)]) {
        let mut lane = Lane::new(version, max_prepared);
        for file in &files {
            let name = format!("{} on {version:?}, {max_prepared}", file.file_name().unwrap().to_string_lossy());
            let case = Case::read(&std::fs::read_to_string(file).unwrap()).unwrap_or_else(|e| panic!("{name}: {e}"));
            lane.renew();
            replay(&mut lane, &name, &case);
        }
    }
}
