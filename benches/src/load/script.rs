//! What a client sends: one or more requests in turn, each with the number of ReadyForQuery messages that end it.

use std::fmt::{self, Display, Formatter};
use std::str::FromStr;

use crate::proto;

/// The kind of request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Query.
    Simple,
    /// Parse, Bind, Describe, Execute, Sync with the unnamed statement.
    Extended,
    /// Bind, Execute, Sync with a named statement that was parsed once per client.
    Prepared,
    /// BEGIN, the query and COMMIT as three simple requests.
    Transaction,
}

impl FromStr for Mode {
    type Err = String;

    fn from_str(s: &str) -> Result<Self, String> {
        match s {
            "simple" => Ok(Mode::Simple),
            "extended" => Ok(Mode::Extended),
            "prepared" => Ok(Mode::Prepared),
            "transaction" => Ok(Mode::Transaction),
            other => Err(format!("{other}: not one of simple, extended, prepared, transaction")),
        }
    }
}

impl Display for Mode {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Mode::Simple => "simple",
            Mode::Extended => "extended",
            Mode::Prepared => "prepared",
            Mode::Transaction => "transaction",
        })
    }
}

/// One request.
#[derive(Clone, Debug)]
pub struct Step {
    /// What is sent.
    pub bytes: Vec<u8>,
    /// ReadyForQuery messages that answer it.
    pub replies: u32,
}

/// The requests of one client, in turn.
#[derive(Clone, Debug)]
pub struct Script {
    /// Repeated under load; never empty.
    pub steps: Vec<Step>,
    /// Sent once per client before that.
    pub prepare: Option<Step>,
}

impl Script {
    /// A script for a statement; every request is sent `pipeline` times at once.
    pub fn new(mode: Mode, sql: &str, pipeline: u32) -> Self {
        let step = |bytes: Vec<u8>| Step { bytes: bytes.repeat(pipeline as usize), replies: pipeline };
        let run = [proto::execute(), proto::sync()].concat();
        match mode {
            Mode::Simple => Self { steps: vec![step(proto::query(sql))], prepare: None },
            Mode::Extended => {
                let open = [proto::parse("", sql), proto::bind(""), proto::describe_portal()].concat();
                Self { steps: vec![step([open, run].concat())], prepare: None }
            }
            Mode::Prepared => {
                let steps = vec![step([proto::bind("s1"), run].concat())];
                Self { steps, prepare: Some(Self::prepare_many(1, sql)) }
            }
            Mode::Transaction => {
                let steps = ["BEGIN", sql, "COMMIT"].map(|sql| step(proto::query(sql))).into();
                Self { steps, prepare: None }
            }
        }
    }

    /// Parses the statement under `count` names, `s1` and on, each with a text of its own.
    pub fn prepare_many(count: usize, sql: &str) -> Step {
        let mut bytes: Vec<u8> =
            (1..=count).flat_map(|i| proto::parse(&format!("s{i}"), &format!("{sql} -- {i}"))).collect();
        bytes.extend(proto::sync());
        Step { bytes, replies: 1 }
    }
}
