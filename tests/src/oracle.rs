//! PostgreSQL as the oracle: a scenario is played twice, directly and through the pooler, and the transcripts
//! must be the same. It compares what a client can see and nothing else.

use crate::pooler::Pooler;
use crate::postgres::{APP, Postgres};
use crate::shuffle::Shuffle;
use crate::wire::{Raw, show};

/// Plays `scenario` against PostgreSQL, then through a pooler in transaction mode whose two servers change hands
/// all the time. Both start with an empty table `item (id int PRIMARY KEY, name text)`. Returns the transcript.
///
/// # Panics
/// When the transcripts differ, when the pooled client is of no more use afterwards, or when a bystander saw
/// anything wrong.
pub fn same(scenario: impl Fn(&mut Raw) -> Vec<String>) -> Vec<String> {
    let postgres = Postgres::shared();
    let database = postgres.database();
    postgres.connect(APP, &database).run("CREATE TABLE item (id int PRIMARY KEY, name text)");
    let direct = scenario(&mut postgres.connect(APP, &database));

    postgres.connect(APP, &database).run("TRUNCATE item");
    let pooler = Pooler::url(postgres, APP, &database, &["--pool-size", "2"]);
    let shuffle = Shuffle::start(&pooler, APP, &database, 2);
    let mut client = pooler.connect(APP, &database);
    let pooled = scenario(&mut client);
    assert_eq!(pooled, direct, "left: through the pooler, right: direct");
    assert_eq!(client.value("SELECT 'still here'"), "still here");
    shuffle.finish();
    direct
}

/// Sends messages in one write and returns the replies up to ReadyForQuery, one line each.
pub fn play(raw: &mut Raw, messages: &[Vec<u8>]) -> Vec<String> {
    show(&raw.exchange(&messages.concat()))
}
