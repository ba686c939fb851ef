//! Users that are not in the configuration: PostgreSQL is asked for their secrets, and what they prove opens their servers.

use std::time::{Duration, Instant};

use pgsluice_tests::wire::{LoginError, Raw, message as m};
use pgsluice_tests::{APP, APP_MD5, APP_PLAIN, Login, Pooler, Postgres, SUPERUSER, Version, eventually};

const SOON: Duration = Duration::from_secs(10);

/// A cluster whose role `asker` may look secrets up, and asks for passwords by SCRAM.
fn cluster(version: Version) -> (Postgres, String) {
    let postgres = Postgres::start_version(version, &[("track_functions", "all")]);
    let database = postgres.database();
    postgres.admin(&database).run(
        "CREATE ROLE asker LOGIN PASSWORD 'asks'; \
         CREATE FUNCTION public.secret_of(INOUT who text, OUT secret text) LANGUAGE sql SECURITY DEFINER \
         AS 'SELECT rolname, rolpassword FROM pg_catalog.pg_authid WHERE rolname = who AND rolcanlogin'; \
         REVOKE ALL ON FUNCTION public.secret_of(text) FROM public; GRANT EXECUTE ON FUNCTION public.secret_of(text) TO asker",
    );
    (postgres, database)
}

const QUERY: &str = "SELECT * FROM public.secret_of($1)";

fn pooler(postgres: &Postgres, database: &str, more: &str) -> Pooler {
    asking(QUERY, postgres, database, more)
}

fn asking(query: &str, postgres: &Postgres, database: &str, more: &str) -> Pooler {
    let text = format!(
        "listen_port = {{port}}\nadmin_users = [\"boss\"]\ndefault_pool_size = 2\nauth_user = \"asker\"\n\
         auth_query = \"{query}\"\nauth_failure_delay = 0\n{more}\n\
         [databases.{database}]\nhost = \"127.0.0.1\"\nport = {}\n\
         [users.asker]\npassword = \"asks\"\n[users.boss]\npassword = \"boss\"\n",
        postgres.port(),
    );
    Pooler::file("pgsluice.toml", &text, BOSS)
}

const BOSS: Login = Login { user: "boss", password: "boss" };

fn sqlstate(outcome: Result<Raw, LoginError>) -> String {
    match outcome {
        Ok(_) => panic!("it was let in"),
        Err(error) => error.sqlstate(),
    }
}

#[test]
fn who_is_not_listed_is_looked_up_and_their_proof_opens_their_servers() {
    for version in Version::ALL {
        let (postgres, database) = cluster(version);
        for auth_type in ["scram-sha-256", "md5", "plain"] {
            let pooler = pooler(&postgres, &database, &format!("auth_type = \"{auth_type}\""));
            let who = |login: Login| {
                let mut client = pooler.try_connect(login, &database).unwrap_or_else(|e| panic!("{auth_type}: {e:?}"));
                client.value("SELECT current_user")
            };
            assert_eq!(who(APP), "app");
            assert_eq!(who(SUPERUSER), "postgres");
            let wrong = Login { password: "guess", ..APP };
            assert_eq!(sqlstate(pooler.try_connect(wrong, &database)), "28P01");
            let nobody = Login { user: "nobody", password: "guess" };
            assert_eq!(sqlstate(pooler.try_connect(nobody, &database)), "28P01");
            // Kept as MD5, which SCRAM cannot be done with; and not enough for a server that wants the password itself.
            match auth_type {
                "scram-sha-256" => assert_eq!(sqlstate(pooler.try_connect(APP_MD5, &database)), "28P01"),
                _ => assert_eq!(who(APP_MD5), "app_md5"),
            }
        }
    }
}

#[test]
fn a_new_password_is_asked_for_again_and_an_old_one_is_not_taken() {
    let (postgres, database) = cluster(Version::Installed);
    let mut admin = postgres.admin(&database);
    admin.run("CREATE ROLE changing LOGIN PASSWORD 'first'");
    let pooler = pooler(&postgres, &database, "auth_query_cache = 3600");
    let login = |password| Login { user: "changing", password };
    let mut before = pooler.connect(login("first"), &database);
    assert_eq!(before.value("SELECT 1"), "1");
    admin.run("ALTER ROLE changing PASSWORD 'second'");
    // What was remembered is found to be wrong, and forgotten.
    assert_eq!(sqlstate(pooler.try_connect(login("second"), &database)), "28P01");
    let mut after = pooler.connect(login("second"), &database);
    assert_eq!(after.value("SELECT 1"), "1");
    assert_eq!(sqlstate(pooler.try_connect(login("first"), &database)), "28P01");
    // New servers are opened with the new one.
    pooler.console().run(&format!("KILL {database}"));
    pooler.console().run(&format!("RESUME {database}"));
    let mut again = pooler.connect(login("second"), &database);
    assert_eq!(again.value("SELECT 1"), "1");
}

#[test]
fn what_a_client_sends_along_does_not_reach_the_query() {
    let (postgres, database) = cluster(Version::Installed);
    // CVE-2025-12819: with the client's search_path, or what else it sends, a function of its own would be asked.
    postgres.admin(&database).run(
        "CREATE SCHEMA evil; GRANT USAGE ON SCHEMA evil TO public; \
         CREATE FUNCTION evil.secret_of(INOUT who text, OUT secret text) LANGUAGE sql \
         AS 'SELECT who, ''md5'' || pg_catalog.md5(''guess'' || who)'; GRANT EXECUTE ON FUNCTION evil.secret_of(text) TO public",
    );
    let more = "auth_type = \"md5\"\nauth_query_cache = 0";
    let pooler = asking("SELECT * FROM secret_of($1)", &postgres, &database, more);
    let evil = [
        vec![("search_path", "evil")],
        vec![("options", "-c search_path=evil")],
        vec![("role", "postgres"), ("options", "-csearch_path=evil,public")],
        vec![("session_authorization", "app")],
    ];
    for parameters in evil {
        let all: Vec<_> = [("user", "app"), ("database", &database)].into_iter().chain(parameters).collect();
        assert_eq!(sqlstate(Raw::connect_with(pooler.addr(), "guess", &all)), "28P01");
    }
    // The name is a value and nothing else.
    for user in ["app' OR '1'='1", "app\" --", "$1", "app\\", "'; DROP ROLE app; --"] {
        let all = [("user", user), ("database", database.as_str())];
        assert_eq!(sqlstate(Raw::connect_with(pooler.addr(), "guess", &all)), "28P01", "{user}");
    }
    assert_eq!(pooler.connect(APP, &database).value("SELECT current_user"), "app");
}

#[test]
fn names_that_nobody_knows_make_no_pools() {
    let (postgres, database) = cluster(Version::Installed);
    postgres.admin("postgres").run(
        "CREATE FUNCTION public.secret_of(INOUT who text, OUT secret text) LANGUAGE sql SECURITY DEFINER \
         AS 'SELECT rolname, rolpassword FROM pg_catalog.pg_authid WHERE rolname = who AND rolcanlogin'",
    );
    let text = format!(
        "listen_port = {{port}}\nadmin_users = [\"boss\"]\nauth_user = \"asker\"\nauth_query = \"{QUERY}\"\n\
         auth_failure_delay = 0\n[databases.\"*\"]\nhost = \"127.0.0.1\"\nport = {}\n\
         [users.asker]\npassword = \"asks\"\n[users.boss]\npassword = \"boss\"\n",
        postgres.port()
    );
    let pooler = Pooler::file("pgsluice.toml", &text, BOSS);
    assert_eq!(pooler.connect(APP, &database).value("SELECT current_database()"), database);
    let pools = || pooler.show("SHOW POOLS").len();
    let before = pools();
    for number in 0..20 {
        let nobody = Login { user: "nobody", password: "guess" };
        assert_eq!(sqlstate(pooler.try_connect(nobody, &format!("made_up_{number}"))), "28P01");
    }
    assert_eq!(pools(), before);
}

#[test]
fn nobody_is_let_in_when_the_query_fails_and_the_log_says_why() {
    let (postgres, database) = cluster(Version::Installed);
    for (query, why) in [
        ("SELECT * FROM no_such($1)", "function no_such(unknown) does not exist (42883)"),
        ("SELECT 'app', 'x' UNION ALL SELECT $1, 'y'", "it returned more than one row for user"),
        ("SELECT $1::text", "it returned 1 columns: name and secret are expected"),
        ("SELECT 'eve', $1::text", "it returned another name for user"),
        ("SELECT 1/0, $1", "division by zero (22012)"),
    ] {
        let pooler = asking(query, &postgres, &database, "auth_query_cache = 0");
        assert_eq!(sqlstate(pooler.try_connect(APP, &database)), "57P03", "{query}");
        assert!(eventually(SOON, || pooler.log().contains(why)), "{query}: {}", pooler.log());
        // Who is listed does not depend on it.
        pooler.console();
    }
}

#[test]
fn the_question_waits_for_a_server_as_everybody_does_and_answers_many() {
    let (postgres, database) = cluster(Version::Installed);
    let pooler = pooler(&postgres, &database, "max_server_connections = 3");
    std::thread::scope(|scope| {
        for login in [APP, SUPERUSER, APP].into_iter().cycle().take(24) {
            let (pooler, database) = (&pooler, &database);
            scope.spawn(move || {
                let mut client = pooler.connect(login, database);
                assert_eq!(client.value("SELECT current_user"), login.user);
            });
        }
    });
    let asker = pooler.pool(&database, "asker").expect("the pool of who asks");
    assert!(asker["sv_idle"].parse::<u32>().expect("a number") <= 2, "{asker:?}");
    assert_eq!(asker["cl_active"], "0", "{asker:?}");
}

#[test]
fn wrong_passwords_are_answered_late_and_guessing_at_one_user_harms_nobody_else() {
    let (postgres, database) = cluster(Version::Installed);
    let pooler = pooler(&postgres, &database, "auth_type = \"md5\"");
    pooler.console().run("SET auth_failure_delay = 5");
    let begun = Instant::now();
    std::thread::scope(|scope| {
        let guesses: Vec<_> = (0..64)
            .map(|_| {
                let (pooler, database) = (&pooler, &database);
                let wrong = Login { password: "guess", ..APP };
                scope.spawn(move || (sqlstate(pooler.try_connect(wrong, database)), Instant::now()))
            })
            .collect();
        assert!(eventually(SOON, || sqlstate_of_full(&pooler, &database) == "28000"));
        // Another user is let in meanwhile.
        assert_eq!(pooler.connect(SUPERUSER, &database).value("SELECT current_user"), "postgres");
        assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
        let outcomes: Vec<_> = guesses.into_iter().map(|guess| guess.join().expect("a guess")).collect();
        let late =
            outcomes.iter().filter(|(code, at)| code == "28P01" && *at - begun >= Duration::from_secs(5)).count();
        let refused = outcomes.iter().filter(|(code, _)| code == "28000").count();
        assert_eq!((late, refused), (32, 32));
    });
    assert_eq!(pooler.connect(APP, &database).value("SELECT current_user"), "app");
}

/// A password that has to be hashed waits for its turn: by then it may be one too many.
#[test]
fn guesses_that_wait_to_be_hashed_are_no_more_than_others() {
    let (postgres, database) = cluster(Version::Installed);
    let pooler = pooler(&postgres, &database, "auth_type = \"plain\"\nmax_client_conn = 1000");
    pooler.console().run("SET auth_failure_delay = 10");
    let mut guesses: Vec<_> = (0..200)
        .map(|_| {
            let mut raw = Raw::open(pooler.addr()).expect("a port");
            raw.send(&m::startup(&[("user", APP.user), ("database", &database)])).expect("it reads");
            assert_eq!(raw.recv().expect("a request for the password").tag, b'R');
            raw
        })
        .collect();
    for guess in &mut guesses {
        guess.send(&m::password(b"guess")).expect("it reads");
    }
    let codes: Vec<_> = guesses.iter_mut().map(|guess| guess.recv().expect("an answer").sqlstate()).collect();
    let of = |code: &str| codes.iter().filter(|other| *other == code).count();
    assert_eq!((of("28P01"), of("28000")), (32, 168));
}

#[test]
fn strangers_who_come_all_at_once_are_no_more_than_others() {
    let (postgres, database) = cluster(Version::Installed);
    let slow = "SELECT secret_of.* FROM pg_sleep(0.02), public.secret_of($1)";
    let pooler = asking(slow, &postgres, &database, "max_client_conn = 2000");
    pooler.console().run("SET auth_failure_delay = 60");
    let mut strangers: Vec<_> = (0..600).map(|_| Raw::open(pooler.addr()).expect("a port")).collect();
    for (number, stranger) in strangers.iter_mut().enumerate() {
        stranger
            .send(&m::startup(&[("user", &format!("stranger_{number}")), ("database", &database)]))
            .expect("it reads");
    }
    for stranger in &mut strangers {
        stranger.recv().expect("an answer");
    }
    let mut admin = postgres.admin(&database);
    let mut asked =
        || admin.value("SELECT coalesce(sum(calls), 0) FROM pg_stat_user_functions WHERE funcname = 'secret_of'");
    assert!(eventually(SOON, || asked().parse::<u32>().expect("a number") >= 256), "{}", asked());
    // What servers have counted is told a little later. Those that are under way at once are not known to be strangers yet.
    std::thread::sleep(Duration::from_secs(2));
    assert!(asked().parse::<u32>().expect("a number") < 256 + 16, "{}", asked());
}

/// Each startup message with another name makes us ask PostgreSQL: who does so all the time is not listened to after a while.
#[test]
fn strangers_cannot_make_us_ask_without_end() {
    let (postgres, database) = cluster(Version::Installed);
    let pooler = pooler(&postgres, &database, "");
    let mut console = pooler.console();
    console.run("SET auth_failure_delay = 60");
    let first = |user: &str| {
        let mut raw = Raw::open(pooler.addr()).expect("a port");
        raw.send(&m::startup(&[("user", user), ("database", &database)])).expect("it reads");
        raw.recv().expect("an answer")
    };
    let answers: Vec<_> = (0..300).map(|number| first(&format!("stranger_{number}"))).collect();
    let (asked, refused): (Vec<_>, Vec<_>) = answers.iter().partition(|answer| answer.tag == b'R');
    assert_eq!((asked.len(), refused.len()), (256, 44));
    assert!(refused.iter().all(|answer| answer.sqlstate() == "28000"), "{:?}", refused[0]);
    let mut admin = postgres.admin(&database);
    let mut questions = || admin.value("SELECT sum(calls) FROM pg_stat_user_functions WHERE funcname = 'secret_of'");
    assert!(eventually(SOON, || questions() == "256"), "{}", questions());
    // What is configured for a user is no reason for another answer, or it would tell who is.
    assert_eq!(first("boss").sqlstate(), "28000");
    console.run("SHOW POOLS");
}

/// The right password is not looked at either, while so many wrong ones wait.
fn sqlstate_of_full(pooler: &Pooler, database: &str) -> String {
    pooler.try_connect(APP, database).map_or_else(|error| error.sqlstate(), |_| String::new())
}

#[test]
fn the_console_is_for_users_looked_up_where_it_is_said_where() {
    let (postgres, database) = cluster(Version::Installed);
    let none = pooler(&postgres, &database, "stats_users = [\"app\"]");
    assert_eq!(sqlstate(none.try_connect(APP, "pgbouncer")), "28P01");
    let some = pooler(&postgres, &database, &format!("stats_users = [\"app\"]\nauth_dbname = \"{database}\""));
    some.connect(APP, "pgbouncer").run("SHOW VERSION");
    assert_eq!(sqlstate(some.try_connect(APP_PLAIN, "pgbouncer")), "42501");
}

#[test]
fn the_owner_of_a_database_cannot_have_the_asker_or_us_call_their_functions() {
    let postgres = Postgres::start(&[]);
    let database = postgres.database();
    let mut admin = postgres.admin(&database);
    admin.run(
        "CREATE ROLE asker LOGIN SUPERUSER PASSWORD 'asks'; CREATE ROLE tenant LOGIN; CREATE SCHEMA evil AUTHORIZATION tenant; \
         SET ROLE tenant; \
         CREATE FUNCTION evil.f() RETURNS bool LANGUAGE plpgsql AS $$ BEGIN \
         EXECUTE 'ALTER ROLE tenant SUPERUSER'; RETURN true; EXCEPTION WHEN insufficient_privilege THEN RETURN true; END $$; \
         CREATE FUNCTION evil.unlike(int, int) RETURNS bool LANGUAGE sql AS 'SELECT evil.f()'; \
         CREATE OPERATOR evil.<> (LEFTARG = int, RIGHTARG = int, FUNCTION = evil.unlike); \
         CREATE VIEW evil.pg_authid AS SELECT 'app'::name AS rolname, 'x'::text AS rolpassword, true AS rolcanlogin, \
         NULL::timestamptz AS rolvaliduntil WHERE evil.f(); RESET ROLE",
    );
    admin.run(&format!("ALTER DATABASE {database} SET search_path = evil, pg_catalog"));
    let text = format!(
        "listen_port = {{port}}\nadmin_users = [\"boss\"]\nauth_user = \"asker\"\nbudget_interval = 0.2\n\
         [databases.{database}]\nhost = \"127.0.0.1\"\nport = {}\n\
         [users.asker]\npassword = \"asks\"\n[users.boss]\npassword = \"boss\"\n",
        postgres.port()
    );
    let pooler = Pooler::file("pgsluice.toml", &text, BOSS);
    assert_eq!(pooler.connect(APP, &database).value("SELECT current_user"), "app");
    // The control connection has read the limits more than once.
    std::thread::sleep(Duration::from_secs(1));
    assert_eq!(admin.value("SELECT rolsuper::text FROM pg_catalog.pg_authid WHERE rolname = 'tenant'"), "false");
}

/// Who says what the query returns in one database proves what they like there: it opens nothing elsewhere, and spoils nothing.
#[test]
fn what_is_proved_at_one_database_is_of_no_use_at_another() {
    let (postgres, database) = cluster(Version::Installed);
    let text = format!(
        "listen_port = {{port}}\nadmin_users = [\"boss\"]\nauth_user = \"asker\"\nauth_query = \"{QUERY}\"\n\
         auth_failure_delay = 0\nquery_wait_timeout = 3\n[databases.{database}]\nhost = \"127.0.0.1\"\nport = {}\n\
         [databases.tenant]\nhost = \"127.0.0.1\"\nport = {}\ndbname = \"{database}\"\n\
         auth_query = \"SELECT $1::text, 'mine'\"\n\
         [users.asker]\npassword = \"asks\"\n[users.boss]\npassword = \"boss\"\n",
        postgres.port(),
        postgres.port()
    );
    let pooler = Pooler::file("pgsluice.toml", &text, BOSS);
    let mut real = pooler.connect(APP, &database);
    assert_eq!(real.value("SELECT current_user"), "app");
    if let Ok(mut impostor) = pooler.try_connect(Login { password: "mine", ..APP }, "tenant") {
        assert!(impostor.rows("SELECT 1").is_err(), "no server of theirs may open with what was proved elsewhere");
    }
    // The next server of the real one opens as the first did.
    let ended = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE usename = 'app'";
    assert_eq!(postgres.admin(&database).value(ended), "1");
    assert!(eventually(SOON, || real.rows("SELECT 1").is_ok()), "{}", pooler.log());
}
