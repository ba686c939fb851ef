//! The names of a database that reach session state, as the crate `sql` finds them in the catalogs of a real PostgreSQL:
//! whatever a statement turns out to change without saying so in its text, it was suspect.

use pgsluice_sql::{Effects, Suspects, read};
use pgsluice_tests::postgres::{APP, Postgres, Version};
use pgsluice_tests::wire::Raw;

/// Everything of a session that the statements of these tests change.
const STATE: &str = "SELECT concat_ws('|', current_setting('app.tenant', true), current_setting('work_mem'),
    (SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid()),
    (SELECT count(*) FROM pg_class WHERE relnamespace = pg_my_temp_schema()),
    (SELECT count(*) FROM pg_prepared_statements), (SELECT count(*) FROM pg_listening_channels()))";

/// Runs the test on each version of PostgreSQL, in a new database with `schema` in it.
fn on_each(schema: &str, test: impl Fn(Database)) {
    for version in Version::ALL {
        let postgres = Postgres::shared_version(version);
        let name = postgres.database();
        postgres.admin(&name).run(schema);
        postgres.admin(&name).run("GRANT ALL ON ALL TABLES IN SCHEMA public TO app");
        test(Database { postgres, name });
    }
}

struct Database {
    postgres: &'static Postgres,
    name: String,
}

impl Database {
    fn connect(&self) -> Raw {
        self.postgres.connect(APP, &self.name)
    }

    /// Reads the catalog as an ordinary role does.
    fn suspects(&self) -> Suspects {
        suspects(&mut self.connect())
    }

    /// Each statement changes its session, and was suspect.
    #[track_caller]
    fn suspicious(&self, suspects: &Suspects, statements: &[&str]) {
        for sql in statements {
            assert!(is_suspect(suspects, sql), "{sql}: {suspects:?}");
            let mut client = self.connect();
            let before = client.value(STATE);
            client.run(sql);
            assert_ne!(client.value(STATE), before, "{sql} changes nothing");
        }
    }

    /// Each statement runs, changes nothing, and was not suspect.
    #[track_caller]
    fn innocent(&self, suspects: &Suspects, statements: &[&str]) {
        for sql in statements {
            assert!(!is_suspect(suspects, sql), "{sql}: {suspects:?}");
            let mut client = self.connect();
            let before = client.value(STATE);
            client.run(sql);
            assert_eq!(client.value(STATE), before, "{sql} changes something");
        }
    }
}

fn suspects(client: &mut Raw) -> Suspects {
    let rows = client.rows(Suspects::QUERY).unwrap_or_else(|error| panic!("{error:?}"));
    let rows = rows.into_iter().map(|row| row.into_iter().map(|value| value.expect("no nulls")).collect::<Vec<_>>());
    let rows = rows.collect::<Vec<_>>();
    Suspects::from_rows(rows.iter().map(|row| [row[0].as_bytes(), row[1].as_bytes(), row[2].as_bytes()]))
}

fn is_suspect(suspects: &Suspects, sql: &str) -> bool {
    read(sql.as_bytes(), Some(suspects)).effects.contains(Effects::SUSPECT)
}

/// Functions, views and triggers as many applications have them.
const HARMLESS: &str = "
    CREATE TABLE item (id serial PRIMARY KEY, price int CHECK (price > 0), name text DEFAULT lower('X'), at timestamptz);
    CREATE INDEX ON item (lower(name)) WHERE price > 10;
    CREATE VIEW cheap AS SELECT * FROM item WHERE price < 10;
    CREATE FUNCTION touch() RETURNS trigger LANGUAGE plpgsql AS $$
        DECLARE comment text := 'a'; load int;
        BEGIN
            new.at := now(); load := 1;
            IF new.name = 'set' THEN new.name := 'SET x'; END IF;
            UPDATE item SET price = 1 WHERE id = -1;
            RETURN new;
        END $$;
    CREATE TRIGGER touch BEFORE INSERT ON item FOR EACH ROW EXECUTE FUNCTION touch();
    CREATE FUNCTION total() RETURNS bigint LANGUAGE sql SECURITY DEFINER SET search_path = public, pg_temp
        AS 'SELECT sum(price) FROM item';
    CREATE FUNCTION next_id() RETURNS bigint LANGUAGE sql AS $$SELECT nextval('item_id_seq')$$;
    CREATE FUNCTION shared() RETURNS void LANGUAGE sql AS 'SELECT pg_advisory_xact_lock(1)';
    CREATE FUNCTION same(text) RETURNS text LANGUAGE internal IMMUTABLE AS 'lower';
    CREATE DOMAIN price AS int CHECK (value > 0);
    CREATE AGGREGATE mysum(int) (sfunc = int4pl, stype = int, initcond = '0');
    ALTER TABLE item ENABLE ROW LEVEL SECURITY;
    CREATE POLICY tenant ON item USING (name <> coalesce(current_setting('app.tenant', true), ''));
    CREATE EXTENSION hstore; CREATE EXTENSION citext; CREATE EXTENSION pg_trgm; CREATE EXTENSION btree_gist;
    CREATE EXTENSION pg_stat_statements; CREATE EXTENSION postgres_fdw; CREATE EXTENSION unaccent; CREATE EXTENSION isn;";

#[test]
fn an_ordinary_database_has_none() {
    on_each(HARMLESS, |database| {
        let suspects = database.suspects();
        assert!(suspects.is_empty(), "{suspects:?}");
        assert!(suspects.custom().is_empty());
        database.innocent(
            &suspects,
            &["SELECT total(), same('x')", "SELECT * FROM cheap", "SELECT mysum(price) FROM item"],
        );
    });
}

const FUNCTIONS: &str = "
    CREATE FUNCTION sets(value text) RETURNS text LANGUAGE sql AS $$SELECT set_config('app.tenant', value, false)$$;
    CREATE FUNCTION \"Sets\"() RETURNS text LANGUAGE sql AS $$SELECT sets('y')$$;
    CREATE FUNCTION twice() RETURNS text LANGUAGE plpgsql AS $$BEGIN PERFORM 1; RETURN (SELECT public.sets('x')); END$$;
    CREATE FUNCTION atomic() RETURNS text LANGUAGE sql BEGIN ATOMIC SELECT twice(); END;
    CREATE FUNCTION by_default(a text DEFAULT sets('x')) RETURNS text LANGUAGE sql AS 'SELECT a';
    CREATE FUNCTION plain_set() RETURNS void LANGUAGE plpgsql AS $$BEGIN IF true THEN SET app.tenant = 'x'; END IF; END$$;
    CREATE FUNCTION dynamic() RETURNS void LANGUAGE plpgsql AS
        $$BEGIN EXECUTE 'SE' || 'T work_mem = ''9MB'''; END$$;
    CREATE FUNCTION locks() RETURNS void LANGUAGE sql AS 'SELECT pg_advisory_lock(7)';
    CREATE FUNCTION temps() RETURNS void LANGUAGE plpgsql AS
        $$DECLARE a int; BEGIN <<l>> LOOP CREATE TEMP TABLE IF NOT EXISTS scratch (a int); EXIT; END LOOP; END$$;
    CREATE FUNCTION prepares() RETURNS void LANGUAGE plpgsql AS $$BEGIN PREPARE mine AS SELECT 1; END$$;
    CREATE FUNCTION listens() RETURNS void LANGUAGE sql AS 'LISTEN mine';
    CREATE FUNCTION internal_set(text, text, bool) RETURNS text LANGUAGE internal AS 'set_config_by_name';
    CREATE FUNCTION not_me() RETURNS text LANGUAGE sql AS $$SELECT 'sets()'::text$$;
    CREATE FUNCTION \"größe\"() RETURNS text LANGUAGE sql AS $$SELECT set_config('app.tenant', 'x', false)$$;
    CREATE PROCEDURE indirect() LANGUAGE plpgsql AS $$BEGIN PERFORM sets('x'); END$$;
    CREATE AGGREGATE gather(text) (sfunc = feed, stype = text);
    CREATE VIEW one AS SELECT 1 AS a;
    CREATE VIEW view_on_set_config AS SELECT set_config('app.tenant', 'x', false) AS a;
    CREATE VIEW view_on_function AS SELECT sets('x') AS a;
    CREATE VIEW view_on_view AS SELECT a FROM view_on_function;
    CREATE VIEW view_on_aggregate AS SELECT gather(a::text) AS a FROM one;
    CREATE FUNCTION through_view() RETURNS text LANGUAGE sql AS 'SELECT a FROM view_on_view';
    CREATE TABLE guarded (a text); INSERT INTO guarded VALUES ('a');
    ALTER TABLE guarded ENABLE ROW LEVEL SECURITY;
    CREATE POLICY p ON guarded USING (sets(a) IS NOT NULL);
    CREATE VIEW view_on_guarded WITH (security_barrier) AS SELECT * FROM guarded;
    ALTER VIEW view_on_guarded OWNER TO app;
    CREATE TABLE plain (a int); CREATE VIEW view_on_plain AS SELECT * FROM plain;";

#[test]
fn functions_and_views_are_suspect_by_name() {
    let feed = "CREATE FUNCTION feed(text, text) RETURNS text LANGUAGE sql AS $$SELECT sets($2)$$;";
    let schema = FUNCTIONS.replacen("CREATE AGGREGATE", &format!("{feed} CREATE AGGREGATE"), 1);
    on_each(&schema, |database| {
        let suspects = database.suspects();
        assert!(!suspects.concern_all() && !suspects.concern_writes(), "{suspects:?}");
        assert_eq!(suspects.custom(), ["app.tenant".into()]);
        database.suspicious(
            &suspects,
            &[
                "SELECT sets('x')",
                "SELECT PUBLIC . \"sets\" ('x')",
                "SELECT \"Sets\"()",
                "SELECT twice()",
                "SELECT atomic()",
                "SELECT by_default()",
                "SELECT plain_set()",
                "SELECT dynamic()",
                "SELECT locks()",
                "SELECT temps()",
                "SELECT prepares()",
                "SELECT listens()",
                "SELECT internal_set('app.tenant', 'x', false)",
                "SELECT \"größe\"()",
                "SELECT GRößE()",
                "CALL indirect()",
                "SELECT gather('x')",
                "SELECT * FROM view_on_set_config",
                "SELECT * FROM view_on_function",
                "SELECT * FROM view_on_view",
                "TABLE view_on_aggregate",
                "SELECT through_view()",
                "SELECT count(*) FROM guarded",
                "SELECT count(*) FROM view_on_guarded",
            ],
        );
        database.innocent(
            &suspects,
            &[
                "SELECT not_me()",
                "SELECT 'sets()', $$twice()$$ -- view_on_view",
                "SELECT * FROM view_on_plain",
                "INSERT INTO plain VALUES (1)",
                "DELETE FROM plain",
                "SELECT * FROM one",
            ],
        );
    });
}

#[test]
fn what_a_write_calls_unseen_makes_all_writes_suspect() {
    let sets =
        "CREATE FUNCTION sets() RETURNS int LANGUAGE sql AS $$SELECT length(set_config('app.tenant', 'x', false))$$;
        CREATE TABLE plain (a int); CREATE TABLE t (a int, b int); INSERT INTO plain VALUES (1);
        CREATE FUNCTION writes() RETURNS void LANGUAGE sql AS 'INSERT INTO t VALUES (1)';";
    for what in [
        "CREATE FUNCTION g() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN PERFORM sets(); RETURN new; END$$;
         CREATE TRIGGER g BEFORE INSERT ON t FOR EACH ROW EXECUTE FUNCTION g()",
        "CREATE FUNCTION g() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN RETURN new; END$$;
         CREATE TRIGGER g BEFORE INSERT ON t FOR EACH ROW WHEN (sets() > 0) EXECUTE FUNCTION g()",
        "ALTER TABLE t ALTER b SET DEFAULT sets()",
        "ALTER TABLE t ADD CHECK (sets() > 0)",
        "CREATE TABLE inner_t (a int);
         CREATE RULE r AS ON INSERT TO t DO ALSO INSERT INTO inner_t VALUES (1);
         ALTER TABLE inner_t ADD CHECK (sets() > 0)",
        "CREATE FUNCTION fixed(int) RETURNS int LANGUAGE sql IMMUTABLE AS
             $$SELECT CASE WHEN pg_try_advisory_lock($1) THEN $1 ELSE $1 END$$;
         CREATE INDEX ON t (fixed(a))",
    ] {
        on_each(&format!("{sets} {what}"), |database| {
            let suspects = database.suspects();
            assert!(suspects.concern_writes() && !suspects.concern_all(), "{what}: {suspects:?}");
            // The function names neither trigger nor constraint.
            let writes = ["INSERT INTO t VALUES (1)", "SELECT writes()", "SELECT sets()"];
            let changing = if what.contains("INDEX") { &writes[..2] } else { &writes[..] };
            database.suspicious(&suspects, changing);
            assert!(is_suspect(&suspects, "INSERT INTO plain VALUES (1)"), "{what}");
            database.innocent(&suspects, &["SELECT * FROM plain", "SELECT 1"]);
        });
    }
}

#[test]
fn what_any_statement_may_call_unseen_makes_all_suspect() {
    let sets = "CREATE TABLE plain (a int); INSERT INTO plain VALUES (1);
        CREATE FUNCTION sets(int, int) RETURNS bool LANGUAGE sql AS $$SELECT set_config('app.tenant', 'x', false) <> ''$$;
        CREATE FUNCTION one(int) RETURNS bool LANGUAGE sql AS 'SELECT sets($1, $1)';
        CREATE TYPE pair AS (a int, b int);
        CREATE FUNCTION of_pair(pair) RETURNS bool LANGUAGE sql AS 'SELECT one($1.a)';";
    for (what, statement) in [
        ("CREATE OPERATOR === (function = sets, leftarg = int, rightarg = int)", "SELECT a === a FROM plain"),
        ("CREATE OPERATOR ==> (function = pg_try_advisory_lock, leftarg = int, rightarg = int)", "SELECT 1 ==> 2"),
        ("CREATE CAST (pair AS bool) WITH FUNCTION of_pair AS IMPLICIT", "SELECT (1, 1)::pair::bool"),
        ("CREATE DOMAIN odd AS int CHECK (one(value))", "SELECT 3::odd"),
        (
            "CREATE FUNCTION e() RETURNS event_trigger LANGUAGE plpgsql AS $$BEGIN PERFORM one(1); END$$;
          CREATE EVENT TRIGGER e ON ddl_command_end EXECUTE FUNCTION e()",
            "CREATE TABLE more (a int)",
        ),
    ] {
        on_each(&format!("{sets} {what}"), |database| {
            let suspects = database.suspects();
            assert!(suspects.concern_all(), "{what}: {suspects:?}");
            database.suspicious(&suspects, &[statement]);
            // The server has been left without its trigger, for the sake of the next.
            database.postgres.admin(&database.name).run("DROP EVENT TRIGGER IF EXISTS e");
        });
    }
}

#[test]
fn functions_in_c_are_known_or_suspect() {
    let schema = "CREATE EXTENSION dblink; CREATE EXTENSION pg_trgm; CREATE EXTENSION hstore;
        CREATE FUNCTION my_similarity(text, text) RETURNS real LANGUAGE c AS '$libdir/pg_trgm', 'similarity';
        CREATE FUNCTION limits() RETURNS real LANGUAGE sql AS 'SELECT set_limit(0.7)';
        CREATE FUNCTION connects() RETURNS text LANGUAGE sql AS $$SELECT dblink_connect('a', 'b')$$;";
    on_each(schema, |database| {
        let suspects = database.suspects();
        assert!(!suspects.concern_all() && !suspects.concern_writes(), "{suspects:?}");
        for sql in
            ["SELECT my_similarity('a', 'b')", "SELECT limits()", "SELECT connects()", "SELECT dblink_is_busy('a')"]
        {
            assert!(is_suspect(&suspects, sql), "{sql}: {suspects:?}");
        }
        database.innocent(&suspects, &["SELECT similarity('a', 'b'), 'a=>1'::hstore -> 'b'"]);
    });
}

#[test]
fn the_catalog_is_read_whatever_a_user_puts_before_it() {
    let trap = "CREATE SCHEMA trap; GRANT USAGE ON SCHEMA trap TO PUBLIC;
        CREATE FUNCTION trap.raise() RETURNS int LANGUAGE plpgsql AS $$BEGIN RAISE 'trapped'; END$$;
        CREATE FUNCTION trap.quote_ident(text) RETURNS text LANGUAGE sql AS $$SELECT trap.raise()::text$$;
        CREATE FUNCTION trap.string_agg(text, text) RETURNS text LANGUAGE sql AS $$SELECT trap.raise()::text$$;
        CREATE FUNCTION trap.count(anyelement) RETURNS int8 LANGUAGE sql AS $$SELECT length(trap.raise()::text)$$;
        CREATE FUNCTION trap.yes(oid, oid) RETURNS bool LANGUAGE sql AS $$SELECT trap.raise() IS NULL$$;
        CREATE FUNCTION trap.yes(name, name) RETURNS bool LANGUAGE sql AS $$SELECT trap.raise() IS NULL$$;
        CREATE FUNCTION trap.yes(text, text) RETURNS bool LANGUAGE sql AS $$SELECT trap.raise() IS NULL$$;
        CREATE OPERATOR trap.= (function = trap.yes, leftarg = oid, rightarg = oid);
        CREATE OPERATOR trap.= (function = trap.yes, leftarg = name, rightarg = name);
        CREATE OPERATOR trap.= (function = trap.yes, leftarg = text, rightarg = text);
        CREATE OPERATOR trap.<> (function = trap.yes, leftarg = text, rightarg = text);
        CREATE OPERATOR trap.~ (function = trap.yes, leftarg = text, rightarg = text);
        CREATE FUNCTION trap.plus(int8, int8) RETURNS int8 LANGUAGE sql AS $$SELECT trap.raise()::int8$$;
        CREATE OPERATOR trap.+ (function = trap.plus, leftarg = int8, rightarg = int8);
        CREATE FUNCTION trap.pg_is_in_recovery() RETURNS bool LANGUAGE sql AS $$SELECT trap.raise() IS NULL$$;
        CREATE VIEW trap.pg_class AS SELECT trap.raise();
        CREATE VIEW trap.pg_proc AS SELECT trap.raise();
        CREATE DOMAIN trap.oid AS pg_catalog.oid CHECK (value < '1'::pg_catalog.oid);
        CREATE FUNCTION sets() RETURNS text LANGUAGE sql AS $$SELECT set_config('app.tenant', 'x', false)$$;";
    on_each(trap, |database| {
        let mut client = database.connect();
        client.run("SET search_path = trap, pg_catalog; SET standard_conforming_strings = off");
        assert!(client.rows("SELECT 'a'::text = 'b'::text").is_err(), "the trap works");
        let found = suspects(&mut client);
        assert!(found.names().any(|name| name == "sets"), "{found:?}");
        assert!(written(&mut client).is_some());
    });
}

/// What [`Suspects::WRITTEN`] tells.
fn written(client: &mut Raw) -> Option<u64> {
    let rows = client.rows(Suspects::WRITTEN).unwrap_or_else(|error| panic!("{error:?}"));
    rows.first().map(|row| row[1].as_deref().expect("a number").parse().expect("a number"))
}

#[test]
fn a_number_tells_that_something_has_been_made_or_changed() {
    on_each("CREATE TABLE item (id int); CREATE FUNCTION f() RETURNS int LANGUAGE sql AS 'SELECT 1'", |database| {
        let mut client = database.connect();
        let changes = [
            "CREATE FUNCTION g() RETURNS int LANGUAGE sql AS 'SELECT 1'",
            "CREATE OR REPLACE FUNCTION f() RETURNS int LANGUAGE sql AS 'SELECT 2'",
            "CREATE VIEW v AS SELECT f()",
            "CREATE OR REPLACE VIEW v AS SELECT f() + 1 AS f",
            "ALTER TABLE item ALTER id SET DEFAULT f()",
            "ALTER TABLE item ADD CHECK (id > f())",
            "CREATE FUNCTION t() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN new; END'",
            "CREATE TRIGGER t BEFORE INSERT ON item EXECUTE FUNCTION t()",
            "ALTER FUNCTION f() RENAME TO h",
            "CREATE POLICY p ON item USING (id > h())",
            "CREATE DOMAIN d AS int CHECK (value > h())",
            "CREATE CAST (item AS int) WITH INOUT",
            "DROP VIEW v",
        ];
        let mut last = written(&mut client);
        for change in changes {
            let other = &mut database.postgres.admin(&database.name);
            other.run(change);
            // Backends report when their transaction ends, but not more often than once a second: here all is in one.
            other.run("SELECT pg_stat_force_next_flush()");
            let now = written(&mut client);
            assert!(now > last, "{change}: {last:?}, {now:?}");
            last = now;
        }
        client.run(
            "CREATE TEMP TABLE mine AS SELECT 1; SELECT count(*) FROM pg_proc; INSERT INTO item SELECT 5 WHERE false",
        );
        client.run("SELECT pg_stat_force_next_flush()");
        let idle = written(&mut client);
        client.run("SELECT count(*) FROM item; BEGIN; DELETE FROM item; ROLLBACK; SELECT pg_stat_force_next_flush()");
        assert_eq!(written(&mut client), idle, "what is no change of the catalog does not count");
        client.run("SET work_mem = '1MB'");
        let mut admin = database.postgres.admin(&database.name);
        admin.run("SET track_counts = off");
        assert_eq!(written(&mut admin), None, "nobody counts");
    });
}
