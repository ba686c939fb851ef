//! A client, and the neighbour that looks for what it may have left behind. Knows no feature.

use std::collections::BTreeSet;
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use futures_util::stream::poll_fn;
use pgsluice_tests::Raw;
use pgsluice_tests::postgres::Login;
use pgsluice_tests::session_state::{FINGERPRINT, Way};
use tokio_postgres::types::ToSql;
use tokio_postgres::{AsyncMessage, Client, Config, NoTls, Row, Statement, ToStatement};

/// In how many transactions a feature has to last.
pub(crate) const ROUNDS: usize = 3;

/// How often a neighbour tries to see both servers.
const TRIES: usize = 4;

/// How long a notification may take.
const SOON: Duration = Duration::from_secs(5);

/// Where sessions are: a way, a user, and a neighbour.
#[derive(Clone)]
pub(crate) struct Place {
    /// How to connect.
    pub(crate) way: Way,
    /// As whom.
    pub(crate) login: Login,
    neighbour: Arc<Mutex<Neighbour>>,
}

impl Place {
    /// With a neighbour that has changed nothing.
    pub(crate) fn new(way: &Way, login: Login) -> Place {
        let raw = Raw::connect(way.addr, login.user, login.password, &way.database).expect("a login");
        let tries = if way.pooled { TRIES } else { 1 };
        let mut neighbour = Neighbour { raw, tries, before: String::new(), holds: false };
        neighbour.before = neighbour.see("").1;
        Place { way: way.clone(), login, neighbour: Arc::new(Mutex::new(neighbour)) }
    }

    /// Another session.
    pub(crate) async fn session(&self) -> Session {
        self.session_with(|config| config).await
    }

    /// Another session, connected in a way of its own.
    pub(crate) async fn session_with(&self, configure: impl FnOnce(&mut Config) -> &mut Config) -> Session {
        self.neighbour().leave();
        let mut config: Config = self.way.url(self.login).parse().expect("a URL");
        configure(&mut config);
        let (client, mut connection) = config.connect(NoTls).await.expect("a login");
        let (sender, notifications) = channel();
        tokio::spawn(async move {
            let mut messages = Box::pin(poll_fn(move |context| connection.poll_message(context)));
            while let Some(Ok(message)) = messages.next().await {
                if let AsyncMessage::Notification(n) = message {
                    // A session that has ended wants to know nothing more.
                    let _ = sender.send((n.channel().to_owned(), n.payload().to_owned()));
                }
            }
        });
        Session { client, notifications, in_block: false, place: self.clone() }
    }

    fn neighbour(&self) -> MutexGuard<'_, Neighbour> {
        self.neighbour.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Another client of the same pool, with nothing set. It looks at the servers that it can get, and if there are two it
/// keeps one in a transaction: whom it watches has to do with the other one next.
struct Neighbour {
    raw: Raw,
    tries: usize,
    before: String,
    holds: bool,
}

impl Neighbour {
    fn look(&mut self) {
        let mut seen = BTreeSet::new();
        for _ in 0..self.tries {
            self.leave();
            self.holds = true;
            let (pid, state) = self.see("BEGIN; ");
            if state != self.before {
                let [now, before] = [&state, &self.before].map(|text| text.lines().collect::<BTreeSet<_>>());
                panic!("a neighbour sees {:?}", now.symmetric_difference(&before).collect::<Vec<_>>());
            }
            seen.insert(pid);
            if seen.len() == 2 {
                return;
            }
        }
        self.leave();
    }

    /// The backend and what it shows, asked behind other statements.
    fn see(&mut self, before: &str) -> (String, String) {
        let sql = [before, FINGERPRINT].concat();
        let mut rows = self.raw.rows(&sql).unwrap_or_else(|error| panic!("a neighbour is told {error:?}"));
        let mut row = rows.remove(0).into_iter().flatten();
        (row.next().expect("a pid"), row.next().expect("a state"))
    }

    fn leave(&mut self) {
        if std::mem::take(&mut self.holds) {
            self.raw.run("COMMIT");
        }
    }
}

/// A client. Between its transactions its neighbour looks around.
pub(crate) struct Session {
    /// The driver's own.
    pub(crate) client: Client,
    notifications: Receiver<(String, String)>,
    in_block: bool,
    place: Place,
}

impl Session {
    /// A statement by the extended protocol that must not fail.
    pub(crate) async fn run(&mut self, sql: &str) {
        if let Err(error) = self.client.execute(sql, &[]).await {
            panic!("{sql}: {error:?}");
        }
        self.settle();
    }

    /// Statements by the simple protocol that must not fail.
    pub(crate) async fn script(&mut self, sql: &str) {
        if let Err(error) = self.client.batch_execute(sql).await {
            panic!("{sql}: {error:?}");
        }
        self.settle();
    }

    /// The only value, a text; NULL is empty.
    pub(crate) async fn value(&mut self, sql: &str) -> String {
        self.value_of(sql, &[]).await
    }

    /// As [`Session::value`], with parameters.
    pub(crate) async fn value_of(&mut self, sql: &str, parameters: &[&(dyn ToSql + Sync)]) -> String {
        let row = self.client.query_one(sql, parameters).await.unwrap_or_else(|error| panic!("{sql}: {error:?}"));
        self.settle();
        row.get::<_, Option<String>>(0).unwrap_or_default()
    }

    /// The first column of all rows, texts.
    pub(crate) async fn values(&mut self, sql: &str) -> Vec<String> {
        let rows = self.client.query(sql, &[]).await.unwrap_or_else(|error| panic!("{sql}: {error:?}"));
        self.settle();
        rows.iter().map(|row| row.get(0)).collect()
    }

    /// A statement by the extended protocol that must fail with a SQLSTATE.
    pub(crate) async fn fails(&mut self, state: &str, sql: &str) {
        let result = self.client.query(sql, &[]).await.map(drop);
        self.must_fail(state, sql, result);
    }

    /// Statements by the simple protocol that must fail with a SQLSTATE.
    pub(crate) async fn script_fails(&mut self, state: &str, sql: &str) {
        let result = self.client.batch_execute(sql).await;
        self.must_fail(state, sql, result);
    }

    fn must_fail(&mut self, state: &str, sql: &str, result: Result<(), tokio_postgres::Error>) {
        let error = result.expect_err(&format!("{sql} did not fail with {state}"));
        assert_eq!(error.code().map(|code| code.code()), Some(state), "{sql}: {error:?}");
        self.settle();
    }

    /// A statement kept prepared.
    pub(crate) async fn prepare(&mut self, sql: &str) -> Statement {
        let statement = self.client.prepare(sql).await.unwrap_or_else(|error| panic!("{sql}: {error:?}"));
        self.settle();
        statement
    }

    /// The rows of a prepared statement, or of a text to be prepared, that must not fail.
    pub(crate) async fn rows<T>(&mut self, statement: &T, parameters: &[&(dyn ToSql + Sync)]) -> Vec<Row>
    where
        T: ?Sized + ToStatement,
    {
        let rows = self.client.query(statement, parameters).await.expect("a statement that works");
        self.settle();
        rows
    }

    /// A prepared statement that must fail with a SQLSTATE.
    pub(crate) async fn prepared_fails(
        &mut self,
        state: &str,
        statement: &Statement,
        parameters: &[&(dyn ToSql + Sync)],
    ) {
        let result = self.client.query(statement, parameters).await.map(drop);
        self.must_fail(state, "a prepared statement", result);
    }

    /// A setting; empty if unknown.
    pub(crate) async fn show(&mut self, name: &str) -> String {
        self.value_of("SELECT current_setting($1, true)", &[&name]).await
    }

    /// Settings that have these values for several transactions.
    pub(crate) async fn stays(&mut self, settings: &[(&str, &str)]) {
        for _ in 0..ROUNDS {
            for (name, value) in settings {
                assert_eq!(self.show(name).await, *value, "{name}");
            }
        }
    }

    /// A query that has this value for several transactions.
    pub(crate) async fn stays_value(&mut self, sql: &str, value: &str) {
        for _ in 0..ROUNDS {
            assert_eq!(self.value(sql).await, value, "{sql}");
        }
    }

    /// A statement that fails for several transactions.
    pub(crate) async fn stays_failing(&mut self, state: &str, sql: &str) {
        for _ in 0..ROUNDS {
            self.fails(state, sql).await;
        }
    }

    /// BEGIN.
    pub(crate) async fn begin(&mut self) {
        self.in_block = true;
        self.script("BEGIN").await;
    }

    /// COMMIT, or another end of a transaction.
    pub(crate) async fn end(&mut self, sql: &str) {
        self.in_block = false;
        self.script(sql).await;
    }

    /// So many notifications, as channel and payload, while the client does nothing.
    pub(crate) fn told(&mut self, count: usize) -> Vec<(String, String)> {
        (0..count).map(|n| self.notifications.recv_timeout(SOON).unwrap_or_else(|_| panic!("{n} of {count}"))).collect()
    }

    /// Whether it is told of nothing for a while.
    pub(crate) fn is_told_nothing(&mut self) -> bool {
        self.notifications.recv_timeout(Duration::from_millis(200)).is_err()
    }

    /// Hangs up and waits until `probe` finds it gone.
    pub(crate) async fn hang_up(self, other: &mut Session, probe: &str, value: &str) {
        drop(self.client);
        self.place.neighbour().leave();
        let start = Instant::now();
        while other.value(probe).await != value {
            assert!(start.elapsed() < SOON, "{probe}: not {value} yet");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Lets the neighbour look, unless there is a transaction.
    pub(crate) fn settle(&mut self) {
        let mut neighbour = self.place.neighbour();
        neighbour.leave();
        if !self.in_block {
            neighbour.look();
        }
    }
}
