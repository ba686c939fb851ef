//! pgbench through transaction mode on three shuffled servers: its own scripts and pipelines, in every query mode.

use std::time::Duration;

use pgsluice_tests::process::Directory;
use pgsluice_tests::program::{pgbench, run};
use pgsluice_tests::{APP, Pooler, Postgres, under_shuffle};

const LIMIT: Duration = Duration::from_secs(90);
const MODES: [&str; 3] = ["simple", "extended", "prepared"];

/// Runs pgbench, which must not complain, and returns what it printed.
fn bench(pooler: &Pooler, database: &str, arguments: &[&str]) -> String {
    let outcome = run(pgbench(pooler.port(), APP, database, arguments), LIMIT).expect_ok("pgbench");
    let quiet = ["ERROR", "FATAL", "aborted", "unexpected"].iter().all(|word| !outcome.err.contains(word));
    assert!(quiet, "{}", outcome.err);
    outcome.out
}

#[test]
fn built_in_scripts_in_every_mode() {
    under_shuffle(Postgres::shared(), |pooler, database| {
        bench(pooler, database, &["-i", "-q", "-s", "1"]);
        for mode in MODES {
            for script in ["select-only", "tpcb-like"] {
                // A thread per client: pgbench 15 prepares with a blocking call, so a thread of several clients waits in
                // the queue with one while it holds servers in the transactions of the others, for ever.
                let arguments = ["-n", "-M", mode, "-b", script, "-c", "12", "-j", "12", "-t", "40"];
                let out = bench(pooler, database, &arguments);
                assert!(out.contains("number of transactions actually processed: 480/480"), "{mode} {script}: {out}");
            }
        }
        // The sums TPC-B keeps are the same everywhere: no transaction was torn or doubled.
        let sums = "SELECT (SELECT sum(abalance) FROM pgbench_accounts) = (SELECT sum(bbalance) FROM pgbench_branches)
            AND (SELECT sum(tbalance) FROM pgbench_tellers) = (SELECT sum(delta) FROM pgbench_history)
            AND (SELECT count(*) FROM pgbench_history) = 1440";
        assert_eq!(pooler.connect(APP, database).value(sums), "t");
    });
}

/// A pipeline whose transaction becomes a block on the way; what it left must add up to nothing, or the client aborts.
const PIPELINE: &str = "\
\\set n random(1, 1000000)
\\startpipeline
INSERT INTO piped VALUES (:client_id, 1, :n);
BEGIN;
INSERT INTO piped VALUES (:client_id, 2, :n);
SELECT * FROM piped WHERE client = :client_id;
INSERT INTO piped VALUES (:client_id, 3, -2 * :n);
COMMIT;
SELECT :n;
\\endpipeline
SELECT count(*) AS wrong FROM (SELECT FROM piped WHERE client = :client_id HAVING sum(amount) <> 0) x \\gset
\\if :wrong
SELECT 1 / 0;
\\endif
";

#[test]
fn pipelines_in_both_modes_that_have_them() {
    under_shuffle(Postgres::shared(), |pooler, database| {
        let scratch = Directory::fresh("pgbench");
        let script = scratch.write("pipeline.sql", PIPELINE).to_string_lossy().into_owned();
        pooler.connect(APP, database).run("CREATE TABLE piped (client int, step int, amount int)");
        for mode in ["extended", "prepared"] {
            let arguments = ["-n", "-M", mode, "-f", &script, "-c", "8", "-j", "8", "-t", "25"];
            let out = bench(pooler, database, &arguments);
            assert!(out.contains("number of transactions actually processed: 200/200"), "{mode}: {out}");
        }
        let counts = "SELECT string_agg(n::text, ',') FROM (SELECT count(*) n FROM piped GROUP BY step) x";
        assert_eq!(pooler.connect(APP, database).value(counts), "400,400,400");
    });
}

/// pgbench itself refuses a pipeline of simple queries, before it sends anything.
#[test]
fn a_pipeline_of_simple_queries_is_refused_as_directly() {
    let postgres = Postgres::shared();
    let scratch = Directory::fresh("pgbench");
    let script = scratch.write("pipeline.sql", "\\startpipeline\nSELECT 1;\n\\endpipeline\n");
    let ask = |port, database: &str| {
        let arguments = ["-n", "-M", "simple", "-f", &script.to_string_lossy(), "-t", "1"];
        run(pgbench(port, APP, database, &arguments), LIMIT).err
    };
    under_shuffle(postgres, |pooler, database| {
        let pooled = ask(pooler.port(), database);
        assert_eq!(pooled, ask(postgres.port(), database));
        assert!(pooled.contains("startpipeline"), "{pooled}");
    });
}

/// Reconnecting for every transaction, limited in rate, several scripts at once with weights.
#[test]
fn connects_rates_and_mixes() {
    under_shuffle(Postgres::shared(), |pooler, database| {
        bench(pooler, database, &["-i", "-q", "-s", "1", "--foreign-keys"]);
        let out = bench(pooler, database, &["-n", "-C", "-S", "-c", "4", "-j", "4", "-t", "25"]);
        assert!(out.contains("number of transactions actually processed: 100/100"), "{out}");
        let mix = ["-b", "select-only@3", "-b", "simple-update@1", "-c", "8", "-j", "8", "-t", "25", "-R", "400"];
        let out = bench(pooler, database, &[&["-n", "-M", "prepared"], mix.as_slice()].concat());
        assert!(out.contains("number of transactions actually processed: 200/200"), "{out}");
        assert!(out.contains("number of failed transactions: 0"), "{out}");
    });
}
