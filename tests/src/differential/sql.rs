//! The SQL that generated cases are made of. Tables are a client's own (`t0`, `d0`, `x0` for client 0), and every result
//! has one order.

use crate::random::Random;

const READS: [&str; 9] = [
    "SELECT 1",
    "SELECT id, v FROM t# ORDER BY id",
    "SELECT 'x' AS \"Name\", NULL::int",
    "SELECT generate_series(1, 5)",
    "SELECT repeat('x', 700)",
    "VALUES (1, 'a'), (2, NULL)",
    "SELECT count(*) FROM t#",
    "SELECT",
    "SELECT a FROM d#",
];
const WRITES: [&str; 7] = [
    "INSERT INTO t# VALUES (3, 'three')",
    "INSERT INTO t# VALUES (4, 'four') RETURNING *",
    "INSERT INTO t# SELECT 5, 'five' WHERE NOT EXISTS (SELECT FROM t# WHERE id = 5)",
    "UPDATE t# SET v = v || 'u'",
    "DELETE FROM t# WHERE id > 2",
    "CREATE TABLE x# (a int)",
    "DROP TABLE x#",
];
const ERRORS: [&str; 8] = [
    "SELECT 1/0",
    "SELEC 1",
    "SELECT nope",
    "SELECT * FROM missing",
    "INSERT INTO t# VALUES (1, 'twice')",
    "SELECT 'x'::int",
    "SELECT 1 / (a - a::int) FROM d#",
    "SELECT $1",
];
const EMPTY: [&str; 4] = ["", ";", "  ", "-- nothing"];
const BLOCKS: [&str; 16] = [
    "BEGIN",
    "BEGIN",
    "START TRANSACTION",
    "BEGIN READ ONLY",
    "COMMIT",
    "COMMIT",
    "ROLLBACK",
    "ROLLBACK",
    "COMMIT AND CHAIN",
    "SAVEPOINT s",
    "ROLLBACK TO s",
    "RELEASE s",
    "END",
    "DECLARE cur CURSOR FOR SELECT generate_series(1, 9)",
    "FETCH 2 FROM cur",
    "CLOSE cur",
];
const FORGETS: [&str; 10] = [
    "DISCARD ALL",
    "DISCARD PLANS",
    "DISCARD SEQUENCES",
    "DEALLOCATE ALL",
    "deallocate all; select 1",
    "DEALLOCATE a",
    "DEALLOCATE \"A\"",
    "DEALLOCATE PREPARE b ;",
    "DEALLOCATE unknown",
    "discard all",
];
const SETTINGS: [&str; 22] = [
    "SET TimeZone = 'Asia/Tokyo'",
    "SET TIME ZONE 'Europe/Rome'",
    "SET LOCAL TimeZone = 'America/Lima'",
    "SET application_name = 'client #'",
    "SET application_name = 'it''s \"me\"'",
    "SET DateStyle = 'German'",
    "SET DateStyle = 'SQL, DMY'",
    "SET IntervalStyle = 'iso_8601'",
    "SET standard_conforming_strings = off",
    "SET client_encoding = 'LATIN1'",
    "SET NAMES 'UTF8'",
    "SET TimeZone = 'Nowhere/Land'",
    "SET LOCAL application_name = 'for now'",
    "SET LOCAL work_mem = '5MB'",
    "RESET TimeZone",
    "RESET application_name",
    "RESET DateStyle",
    "RESET ALL",
    "SET TimeZone TO DEFAULT",
    "SELECT set_config('application_name', 'by function', false)",
    "SELECT set_config('TimeZone', 'Asia/Kolkata', true)",
    "SET default_transaction_read_only = on",
];
const SHOWS: [&str; 6] = [
    "SHOW TimeZone",
    "SHOW application_name",
    "SHOW DateStyle",
    "SHOW client_encoding",
    "SELECT DATE '2024-03-01', TIMESTAMPTZ '2024-03-01 12:00+00', INTERVAL '1 day 2 hours'",
    "SELECT current_setting('IntervalStyle'), current_setting('default_transaction_read_only')",
];
const OTHERS: [&str; 6] = [
    "DO $$ BEGIN RAISE NOTICE 'a notice'; END $$",
    "DO $$ BEGIN RAISE WARNING 'a warning' USING ERRCODE = '01234', DETAIL = 'more', HINT = 'less'; END $$",
    "DO $$ BEGIN RAISE EXCEPTION 'own error' USING ERRCODE = 'AB123'; END $$",
    "NOTIFY nobody",
    "COPY (SELECT * FROM t# ORDER BY id) TO STDOUT",
    "COPY (SELECT 1 / (3 - g) FROM generate_series(1, 5) g) TO STDOUT",
];

const STATEMENTS: [&str; 24] = [
    "SELECT $1::int",
    "SELECT $1::int",
    "SELECT $1::text, $2::int",
    "SELECT id, v FROM t# WHERE id >= $1 ORDER BY id",
    "INSERT INTO t# VALUES ($1, $2)",
    "UPDATE t# SET v = $1 WHERE id = 1 RETURNING v",
    "SELECT 1",
    "SELECT 1",
    "SELECT 'client #'",
    "SELECT generate_series(1, 4)",
    "SELECT generate_series(1, $1)",
    "SELECT 1/$1::int",
    "SELEC 1",
    "SELECT nope",
    "SELECT 1; SELECT 2",
    "",
    "BEGIN",
    "COMMIT",
    "ROLLBACK",
    "SELECT * FROM d#",
    "COPY (SELECT * FROM t# ORDER BY id) TO STDOUT",
    "SHOW TimeZone",
    "SET TimeZone = 'Asia/Tokyo'",
    "DELETE FROM t# WHERE id > 2",
];

/// The text of a simple Query. `serial` makes names that no other Query has.
pub(super) fn query(random: &mut Random, client: usize, serial: usize) -> String {
    if random.chance(4) {
        return prepare(random, serial);
    }
    let mut text = one(random);
    if random.chance(18) {
        for _ in 0..1 + random.below(3) {
            // A DEALLOCATE of one of the client's names is only found where it is the whole Query.
            let next = one(random);
            if !names_statement(&text) && !names_statement(&next) {
                text = format!("{text}; {next}");
            }
        }
    }
    own(&text, client)
}

fn names_statement(text: &str) -> bool {
    text.starts_with("DEALLOCATE") && !text.contains(" ALL")
}

fn one(random: &mut Random) -> String {
    let lists: [&[&str]; 9] = [&READS, &WRITES, &ERRORS, &EMPTY, &BLOCKS, &FORGETS, &SETTINGS, &SHOWS, &OTHERS];
    let list = lists[random.weighted(&[20, 12, 10, 3, 22, 6, 10, 8, 6])];
    random.text(list)
}

/// SQL's own prepared statements, gone before the transaction is over.
fn prepare(random: &mut Random, serial: usize) -> String {
    let name = format!("q{serial}");
    let last = random.text(&["", "SELECT 1/0; ", "COMMIT; "]);
    format!("BEGIN; PREPARE {name} AS SELECT $1::int; EXECUTE {name}(5); DEALLOCATE {name}; {last}SELECT 2")
}

/// The text of a Parse.
pub(super) fn statement(random: &mut Random, client: usize) -> String {
    let text = match random.below(20) {
        0 => random.text(&FORGETS),
        1 => random.text(&SETTINGS),
        2 => random.text(&SHOWS),
        3 => random.text(&BLOCKS),
        4 => random.text(&WRITES),
        _ => random.text(&STATEMENTS),
    };
    own(&text, client)
}

/// How many parameters a text has.
pub(super) fn parameters(text: &str) -> usize {
    (1..).take_while(|n| text.contains(&format!("${n}"))).count()
}

/// A COPY FROM STDIN, or nearly.
pub(super) fn copy_in(random: &mut Random, client: usize) -> String {
    let texts = [
        "COPY t# FROM STDIN",
        "COPY t# FROM STDIN",
        "COPY t# FROM STDIN",
        "COPY t# (id) FROM STDIN",
        "COPY t# FROM STDIN (FORMAT csv, DELIMITER E'\\t')",
        "COPY t# FROM STDIN (FORMAT binary)",
        "COPY missing FROM STDIN",
        "COPY t# FROM STDIN; SELECT count(*) FROM t#",
        "SELECT 1; COPY t# FROM STDIN; COPY t# FROM STDIN",
    ];
    own(&random.text(&texts), client)
}

fn own(text: &str, client: usize) -> String {
    text.replace('#', &client.to_string())
}
