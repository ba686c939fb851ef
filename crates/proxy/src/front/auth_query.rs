//! Secrets of users that are not in the configuration, asked for at PostgreSQL.
//!
//! The question is put by a client of our own, at a socket that nobody else holds, to a worker as any client is: so it waits for a
//! server of the pool of `auth_user` like everybody, within the budget, and is to be seen in the console. It has nothing of the
//! client it is asked for but the user's name, and that as a parameter: not its startup parameters (CVE-2025-12819), and no SQL.

use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use pgsluice_config::{RESERVED_DATABASES, Secret};
use pgsluice_session::{Refusal, Replication, ServerError, Settings};
use pgsluice_wire::{DataRow, FrontendWriter, HEAD_LEN, Head, Report, tag::backend, tag::frontend};
use tokio::net::UnixStream;
use tokio::sync::Semaphore;
use tracing::warn;

use super::{Front, random};
use crate::message::{NewClient, ToWorker};
use crate::net::Stream;

/// Where PostgreSQL is asked about users of databases that only the fallback entry serves: databases that there are, by names that
/// no other entry has.
const PLACES: [&str; 2] = ["postgres", "template1"];
/// Questions to one database under way at once.
const QUESTIONS_MAX: usize = 8;
/// Answers that are remembered.
const ANSWERS_MAX: usize = 10_000;
/// Longest answer, in bytes.
const ANSWER_LEN_MAX: usize = 256 << 10;
const READ_LEN: usize = 4 << 10;

/// What was answered of late.
#[derive(Debug, Default)]
pub(super) struct Answers {
    /// By the database that was asked, its query, and the user.
    known: HashMap<Question, (Instant, Answer)>,
    /// Room for questions that are under way, by database. Only those that the configuration names are asked.
    room: HashMap<String, Rc<Semaphore>>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Question {
    database: String,
    query: String,
    asker: String,
    user: String,
}

/// None: there is no such user. Otherwise its secret, if it has one.
pub(super) type Answer = Option<Option<Secret>>;

impl Answers {
    fn recent(&self, question: &Question, life: Duration) -> Option<Answer> {
        self.known.get(question).filter(|(since, _)| since.elapsed() < life).map(|(_, answer)| answer.clone())
    }

    fn remember(&mut self, question: Question, answer: Answer, life: Duration) {
        if life.is_zero() {
            return;
        }
        if self.known.len() >= ANSWERS_MAX {
            self.known.retain(|_, (since, _)| since.elapsed() < life);
        }
        if self.known.len() < ANSWERS_MAX {
            self.known.insert(question, (Instant::now(), answer));
        }
    }

    fn room(&mut self, database: &str) -> Rc<Semaphore> {
        let room = self.room.entry(database.into()).or_insert_with(|| Rc::new(Semaphore::new(QUESTIONS_MAX)));
        room.clone()
    }

    /// Of all that was remembered nothing is to be believed any more.
    pub(super) fn forget_all(&mut self) {
        self.known.clear();
    }
}

impl Front {
    /// The question for a user of a database; `None` if nobody is to be asked.
    fn question(&self, database: &str, user: &str) -> Option<Question> {
        let config = self.config();
        let asker = config.auth_user(database)?;
        let (query, place) = config.auth_query(database);
        let place = match place {
            Some(place) => place,
            // The console has no PostgreSQL.
            None if RESERVED_DATABASES.contains(&database) => return None,
            // A pool for each name that somebody nobody knows may think of is too much.
            None if config.database(database)?.1 => {
                PLACES.into_iter().find(|place| !config.databases.contains_key(*place))?
            }
            None => database,
        };
        // Who is to ask would have to be asked for.
        (asker != user).then(|| Question {
            database: place.into(),
            query: query.into(),
            asker: asker.into(),
            user: user.into(),
        })
    }

    /// What PostgreSQL holds of a user that is not in the configuration. `place`: where somebody says to be that user.
    ///
    /// # Errors
    /// It could not be asked, or gave an answer that is none; the log says why. Or there were too many strangers at that place.
    pub(super) async fn ask_for_secret(
        self: &Rc<Self>,
        database: &str,
        user: &str,
        place: &str,
    ) -> Result<Answer, Refusal> {
        let Some(question) = self.question(database, user) else { return Ok(None) };
        let answer = self.answer_to(question, place).await?;
        if answer.is_none() {
            self.note_stranger(place, user);
        }
        Ok(answer)
    }

    async fn answer_to(self: &Rc<Self>, question: Question, place: &str) -> Result<Answer, Refusal> {
        let life = self.config().settings.auth_query_cache;
        let recent = || self.answers.borrow().recent(&question, life);
        if let Some(answer) = recent() {
            return Ok(answer);
        }
        let room = self.answers.borrow_mut().room(&question.database);
        let _permit = room.acquire().await;
        // Somebody else may have asked while we waited.
        if let Some(answer) = recent() {
            return Ok(answer);
        }
        // Of what is remembered anybody may have the answer; those in front may have been strangers, too.
        self.check_failures(place, &question.user)?;
        let outcome = self.put(&question).await;
        match outcome {
            Ok(answer) => {
                self.answers.borrow_mut().remember(question, answer.clone(), life);
                Ok(answer)
            }
            Err(why) => {
                warn!(database = %question.database, auth_user = %question.asker, "auth_query failed: {why}");
                Err(Refusal::CannotAuthenticate(question.user.into()))
            }
        }
    }

    /// A password was wrong: it may be a new one.
    pub(super) fn forget_secret(&self, database: &str, user: &str) {
        if let Some(question) = self.question(database, user) {
            self.answers.borrow_mut().known.remove(&question);
        }
    }

    async fn put(self: &Rc<Self>, question: &Question) -> Result<Answer, String> {
        let pool = self.pool_as(&question.database, &question.asker, &Settings::default());
        let pool = pool.map_err(|refusal| refusal.to_string())?;
        let (ours, theirs) = UnixStream::pair().map_err(|e| e.to_string())?;
        let (ours, theirs) = (Stream::from(ours), Stream::from(theirs));
        let (ends, worker) = (theirs.ends(), self.reception.least_loaded(0));
        let parcel = theirs.pack().map_err(|e| e.to_string())?;
        let (id, pid) = self.reception.enter(worker, None).map_err(|refusal| refusal.to_string())?;
        let config = self.config();
        let client = NewClient {
            ends,
            id,
            is_ours: true,
            pid,
            secret: Box::from(random::<32>()),
            user: question.asker.clone(),
            replication: Replication::No,
            settings: Arc::default(),
            pool,
            query_wait: config.query_wait_timeout(&question.database, &question.asker),
            client_idle: Duration::ZERO,
            early: words(&question.query, &question.user),
            late: Vec::new(),
        };
        self.tell(worker, ToWorker::Client(parcel, Box::new(client)));
        let rows = read_answer(&ours).await?;
        secret_in(rows, &question.user)
    }
}

fn words(query: &str, user: &str) -> Vec<u8> {
    let mut words = Vec::new();
    let mut writer = FrontendWriter(&mut words);
    // The text, and no types of parameters.
    writer.parse_content(b"", &[query.as_bytes(), &[0, 0, 0]].concat());
    writer.bind_text(b"", [Some(user.as_bytes())].into_iter());
    writer.execute();
    writer.bare(frontend::SYNC);
    words
}

/// Columns of a row, as they came.
type Row = Vec<Option<Vec<u8>>>;

async fn read_answer(stream: &Stream) -> Result<Vec<Row>, String> {
    let broken = "the answer cannot be read";
    let (mut inbox, mut received, mut rows) = (Vec::new(), 0, Vec::new());
    // The session's beginning ends with one of them, the answer with the second.
    let mut readies = 0;
    loop {
        while let Some(head) = Head::read(&inbox).map_err(|_| broken)? {
            let Some(body) = inbox.get(HEAD_LEN..head.total()) else { break };
            match head.tag {
                backend::DATA_ROW => {
                    let columns = DataRow::new(body).columns().map_err(|_| broken)?;
                    rows.push(columns.into_iter().map(|c| c.map(<[u8]>::to_vec)).collect());
                }
                backend::ERROR_RESPONSE => {
                    let report = Report::read(body).map_err(|_| broken)?;
                    let ServerError { sqlstate, message, .. } = ServerError::from_report(report);
                    return Err(format!("{message} ({sqlstate})"));
                }
                backend::READY_FOR_QUERY => readies += 1,
                _ => {}
            }
            inbox.drain(..head.total());
        }
        if readies == 2 {
            return Ok(rows);
        }
        match stream.read_some(&mut inbox, READ_LEN).await {
            Ok(0) => return Err("the connection was closed".into()),
            Ok(n) => received += n,
            Err(error) => return Err(error.to_string()),
        }
        if received > ANSWER_LEN_MAX {
            return Err(format!("the answer is longer than {ANSWER_LEN_MAX} bytes"));
        }
    }
}

fn secret_in(rows: Vec<Row>, user: &str) -> Result<Answer, String> {
    let mut rows = rows.into_iter();
    let Some(row) = rows.next() else { return Ok(None) };
    if rows.next().is_some() {
        return Err(format!("it returned more than one row for user \"{user}\""));
    }
    let [name, secret] = <[_; 2]>::try_from(row)
        .map_err(|row: Row| format!("it returned {} columns: name and secret are expected", row.len()))?;
    // What a function without SETOF returns when it finds nothing.
    let Some(name) = name else { return Ok(None) };
    if name != user.as_bytes() {
        return Err(format!("it returned another name for user \"{user}\""));
    }
    let text = |bytes| String::from_utf8(bytes).map(Secret::new).map_err(|_| "the secret is not UTF-8".to_owned());
    Ok(Some(secret.filter(|secret| !secret.is_empty()).map(text).transpose()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(columns: &[Option<&str>]) -> Row {
        columns.iter().map(|c| c.map(|text| text.as_bytes().to_vec())).collect()
    }

    #[test]
    fn an_answer_is_one_row_of_name_and_secret_or_none() {
        let secret = |rows| secret_in(rows, "bob").map(|answer| answer.map(|s| s.map(|s| s.expose().to_owned())));
        assert_eq!(secret(vec![]), Ok(None));
        assert_eq!(secret(vec![row(&[Some("bob"), Some("x")])]), Ok(Some(Some("x".into()))));
        assert_eq!(secret(vec![row(&[Some("bob"), None])]), Ok(Some(None)));
        assert_eq!(secret(vec![row(&[Some("bob"), Some("")])]), Ok(Some(None)));
        assert!(secret(vec![row(&[Some("bob"), Some("x")]), row(&[Some("bob"), Some("y")])]).is_err());
        assert!(secret(vec![row(&[Some("eve"), Some("x")])]).is_err());
        assert!(secret(vec![row(&[Some("bob")])]).is_err());
        assert_eq!(secret(vec![row(&[None, Some("x")])]), Ok(None));
    }

    #[test]
    fn answers_are_forgotten() {
        let life = Duration::from_secs(60);
        let question =
            |user: &str| Question { database: "d".into(), query: "q".into(), asker: "a".into(), user: user.into() };
        let mut answers = Answers::default();
        answers.remember(question("bob"), Some(None), life);
        assert_eq!(answers.recent(&question("bob"), life), Some(Some(None)));
        assert_eq!(answers.recent(&question("bob"), Duration::ZERO), None);
        assert_eq!(answers.recent(&question("eve"), life), None);
        for user in 0..ANSWERS_MAX + 1 {
            answers.remember(question(&user.to_string()), None, life);
        }
        assert_eq!(answers.known.len(), ANSWERS_MAX);
        answers.forget_all();
        assert!(answers.known.is_empty());
    }
}
