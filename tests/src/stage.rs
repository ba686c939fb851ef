//! Where other people's programs are put to the test: a pool of few servers in transaction mode, under shuffle. It
//! judges what the background clients and PostgreSQL see, not the program.

use std::time::Duration;

use crate::eventually;
use crate::pooler::Pooler;
use crate::postgres::{APP, Postgres};
use crate::shuffle::Shuffle;

/// Servers of the pool.
const SERVERS: usize = 3;
/// Clients that keep them changing hands.
const CLIENTS: usize = 4;

/// Runs `work` with a pooler for a fresh database of `postgres`, and that database's name.
///
/// # Panics
/// When a background client saw anything wrong or did not get its turns, or when there were more servers than allowed.
pub fn under_shuffle(postgres: &Postgres, work: impl FnOnce(&Pooler, &str)) {
    let database = postgres.database();
    let pooler = Pooler::url(postgres, APP, &database, &["--pool-size", &SERVERS.to_string()]);
    let shuffle = Shuffle::start(&pooler, APP, &database, CLIENTS);
    assert!(goes_on(&shuffle), "the background clients do not get their turns");
    work(&pooler, &database);
    assert!(goes_on(&shuffle), "the background clients do not get their turns any more");
    shuffle.finish();
    assert!(postgres.backends(&database) <= SERVERS + 1, "the servers and at most one control connection");
}

/// Whether the clients make their rounds now.
fn goes_on(shuffle: &Shuffle) -> bool {
    let before = shuffle.rounds();
    eventually(Duration::from_secs(20), || shuffle.rounds() >= before + 20)
}
