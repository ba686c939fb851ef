//! Tables that change under prepared statements: a client is told so once, as it is directly, and can prepare anew.

use pgsluice_tests::oracle::play;
use pgsluice_tests::wire::message::{bind, close, describe, execute, parse, sync};
use pgsluice_tests::{APP, Pooler, Postgres, Raw, Version};

const SQL: &str = "SELECT * FROM item";

fn prepare(raw: &mut Raw, name: &str) -> Vec<String> {
    play(raw, &[parse(name, SQL, &[]), describe(b'S', name), sync()])
}

fn use_it(raw: &mut Raw, name: &str) -> Vec<String> {
    play(raw, &[bind("", name, &[]), execute("", 0), sync()])
}

/// Plays `scenario` directly, then through two servers. Its connections are the client, two that hold a server between
/// BEGIN and COMMIT, so that the client gets the other one, and a direct one.
fn same(scenario: impl Fn(&mut Raw, [&mut Raw; 2], &mut Raw) -> Vec<String>) {
    let postgres = Postgres::shared();
    let database = postgres.database();
    let mut other = postgres.connect(APP, &database);
    let mut played = |connect: &dyn Fn() -> Raw| {
        other.run("DROP TABLE IF EXISTS item; CREATE TABLE item (id int); INSERT INTO item VALUES (1)");
        scenario(&mut connect(), [&mut connect(), &mut connect()], &mut other)
    };
    let direct = played(&|| postgres.connect(APP, &database));
    let pooler = Pooler::url(postgres, APP, &database, &["--pool-size", "2", "--workers", "1"]);
    let pooled = played(&|| pooler.connect(APP, &database));
    assert_eq!(pooled, direct, "left: through the pooler, right: direct");
}

/// One server: its plan is of no use, and a Parse is a new one.
#[test]
fn prepared_again_on_the_server_that_refused() {
    same(|client, _, other| {
        let mut all = [prepare(client, "a"), use_it(client, "a")].concat();
        other.run("ALTER TABLE item ADD COLUMN more int");
        all.extend(use_it(client, "a"));
        all.extend(play(client, &[close(b'S', "a"), sync()]));
        all.extend([prepare(client, "a"), use_it(client, "a")].concat());
        all
    });
}

/// Both servers have the statement from before the change; the client hears of it on one, prepares again,
/// and the other answers for the old one.
#[test]
fn prepared_again_on_another_server_that_has_the_old_one() {
    same(|client, [one, two], other| {
        let mut all = [prepare(client, "a"), use_it(client, "a")].concat();
        one.run("BEGIN");
        all.extend(use_it(client, "a"));
        other.run("SET lock_timeout = '5s'; ALTER TABLE item ADD COLUMN more int");
        all.extend(use_it(client, "a"));
        two.run("BEGIN");
        one.run("COMMIT");
        all.extend(play(client, &[close(b'S', "a"), sync()]));
        all.extend([prepare(client, "b"), use_it(client, "b")].concat());
        two.run("COMMIT");
        all
    });
}

#[test]
fn one_text_under_two_search_paths() {
    for version in Version::ALL {
        let postgres = Postgres::shared_version(version);
        let database = postgres.database();
        let pooler = Pooler::url(postgres, APP, &database, &["--pool-size", "1"]);
        let mut admin = postgres.admin(&database);
        for (schema, column) in [("red", "id int"), ("blue", "id int, name text")] {
            admin.run(&format!("CREATE SCHEMA {schema}; GRANT USAGE ON SCHEMA {schema} TO PUBLIC"));
            admin.run(&format!("CREATE TABLE {schema}.item ({column}); GRANT ALL ON {schema}.item TO PUBLIC"));
        }
        let connect = |path: &str| {
            let parameters = [("user", APP.user), ("database", &database), ("search_path", path)];
            Raw::connect_with(pooler.addr(), APP.password, &parameters).unwrap()
        };
        let (mut red, mut blue) = (connect("red"), connect("blue"));
        for _ in 0..3 {
            for (client, columns) in [(&mut red, "T id"), (&mut blue, "T id|name")] {
                assert_eq!(prepare(client, "same"), ["1", "t", columns, "Z I"]);
                assert_eq!(use_it(client, "same"), ["2", "C SELECT 0", "Z I"]);
                assert_eq!(play(client, &[close(b'S', "same"), sync()]), ["3", "Z I"]);
            }
        }
    }
}

/// A server that never had the statement would prepare it as the table is now, and answer with rows of another shape than
/// the client was told.
#[test]
fn used_on_a_server_that_lacks_it() {
    same(|client, [one, _], other| {
        let mut all = [prepare(client, "a"), use_it(client, "a")].concat();
        other.run("ALTER TABLE item ADD COLUMN more int");
        one.run("BEGIN");
        all.extend(use_it(client, "a"));
        one.run("COMMIT");
        all.extend(play(client, &[close(b'S', "a"), sync()]));
        all.extend([prepare(client, "a"), use_it(client, "a")].concat());
        all
    });
}

/// In a pipeline and in a block, too: what follows is skipped, the block has failed.
#[test]
fn used_in_a_block_on_a_server_that_lacks_it() {
    same(|client, [one, _], other| {
        let mut all = [prepare(client, "a"), use_it(client, "a")].concat();
        other.run("ALTER TABLE item ALTER COLUMN id TYPE text");
        one.run("BEGIN");
        let batch = [
            parse("", "BEGIN", &[]),
            bind("", "", &[]),
            execute("", 0),
            bind("", "a", &[]),
            execute("", 0),
            parse("never", "SELECT 1", &[]),
            sync(),
        ];
        all.extend(play(client, &batch));
        all.extend(use_it(client, "a"));
        all.extend(pgsluice_tests::wire::show(&client.query("ROLLBACK")));
        all.extend(use_it(client, "never"));
        one.run("COMMIT");
        all
    });
}

/// Somebody who never prepared it before hears nothing of what it was, where the change went through the pooler.
#[test]
fn prepared_first_after_the_change() {
    same(|client, [one, two], other| {
        let mut all = [prepare(client, "a"), use_it(client, "a")].concat();
        two.run("BEGIN");
        all.extend(use_it(client, "a"));
        two.run("COMMIT");
        other.run("GRANT ALL ON item TO PUBLIC");
        one.run("ALTER TABLE item ADD COLUMN more int");
        all.extend([prepare(one, "b"), use_it(one, "b")].concat());
        two.run("BEGIN");
        all.extend([prepare(one, "c"), use_it(one, "c")].concat());
        two.run("COMMIT");
        all
    });
}
