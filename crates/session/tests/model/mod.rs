//! A model PostgreSQL for one connection: bytes in, bytes out, by the rules of the extended and the simple protocol.
//!
//! It knows a handful of commands (`select N`, `begin`, `set name value`, `copy in`, …), not SQL: what it is true to is
//! who answers what, when, and what an error does. Source: the manual's "Message Flow", and PostgreSQL's
//! `src/backend/tcop/postgres.c`. It is written without looking at the session's code, on purpose.

pub(crate) mod commands;
mod fault;
pub(crate) mod frontend;
mod state;
pub(crate) mod text;

use std::collections::{BTreeMap, VecDeque};

use pgsluice_wire::{BackendWriter, Column, HEAD_LEN, Head, Severity, TxStatus};

pub(crate) use fault::{BROKEN, Fault};
use state::State;

/// A parameter list, by lower-case name.
pub(crate) type Values = BTreeMap<String, String>;

/// Parameters that are reported, as PostgreSQL spells them. Here `default` is what they are when nobody has set them, and
/// also whom the session logged in as.
pub(crate) const REPORTED: [&str; 4] = ["TimeZone", "application_name", "DateStyle", "session_authorization"];

/// SQLSTATE and message of an error.
pub(crate) type Failure = (&'static str, String);

#[derive(Clone, Debug)]
struct Portal {
    text: String,
    values: Vec<String>,
    rows_sent: u32,
    done: bool,
}

/// COPY FROM STDIN under way.
#[derive(Clone, Debug)]
struct CopyIn {
    lines: u32,
    /// A Sync was among them.
    synced: bool,
    /// The rest of the simple Query it belongs to, if it does.
    query: Option<VecDeque<String>>,
}

/// One backend.
#[derive(Clone, Debug)]
pub(crate) struct Model {
    inbox: Vec<u8>,
    /// Written, not sent yet.
    held: Vec<u8>,
    /// Sent.
    pub(crate) out: Vec<u8>,
    statements: BTreeMap<Vec<u8>, String>,
    portals: BTreeMap<Vec<u8>, Portal>,
    tx: TxStatus,
    skipping: bool,
    copy: Option<CopyIn>,
    /// A COPY failed that had read a Sync.
    copy_failed_behind_sync: bool,
    state: State,
    reported: Values,
    /// A command that runs inside a multi-statement Query.
    in_list: bool,
    closed: bool,
    asked_to_load: bool,
    /// What it will fail to do.
    pub(crate) fault: Option<Fault>,
    faults: fault::Faults,
}

impl Model {
    /// A backend that has just said ReadyForQuery (which is not in `out`); `settings` are its session's defaults.
    pub(crate) fn new(settings: &[(&str, &str)]) -> Self {
        let state = State::new(settings);
        let reported = REPORTED.iter().map(|n| n.to_ascii_lowercase());
        Self {
            inbox: Vec::new(),
            held: Vec::new(),
            out: Vec::new(),
            statements: BTreeMap::new(),
            portals: BTreeMap::new(),
            tx: TxStatus::Idle,
            skipping: false,
            copy: None,
            copy_failed_behind_sync: false,
            reported: reported.map(|n| (n.clone(), state.setting(&n).to_owned())).collect(),
            state,
            in_list: false,
            closed: false,
            asked_to_load: false,
            fault: None,
            faults: fault::Faults::default(),
        }
    }

    /// Is it reading the data of a COPY?
    pub(crate) fn is_copying_in(&self) -> bool {
        self.copy.is_some()
    }

    /// As in its next ReadyForQuery.
    pub(crate) fn tx(&self) -> TxStatus {
        self.tx
    }

    /// Text of a prepared statement.
    pub(crate) fn statement_text(&self, name: &str) -> Option<&str> {
        self.statements.get(name.as_bytes()).map(String::as_str)
    }

    /// Did it hang up?
    pub(crate) fn is_closed(&self) -> bool {
        self.closed
    }

    /// Can it never be lent again, or has it been made to fail? Whether a library was loaded, nobody finds out.
    pub(crate) fn is_spoilt(&self) -> bool {
        self.closed || self.asked_to_load || self.copy_failed_behind_sync || self.faults.happened
    }

    /// What the last client could have left behind, other than settings and prepared statements.
    pub(crate) fn leftovers(&self) -> Vec<String> {
        let mut found = self.state.leftovers();
        if self.tx != TxStatus::Idle {
            found.push(format!("transaction {:?}", self.tx));
        }
        found.extend(self.portals.keys().map(|p| format!("portal {}", p.escape_ascii())));
        if self.copy.is_some() || self.skipping || !self.inbox.is_empty() {
            found.push("half a conversation".into());
        }
        found
    }

    /// The value of a setting, empty if there is none.
    pub(crate) fn setting(&self, name: &str) -> &str {
        self.state.setting(name)
    }

    /// Settings that differ from the defaults.
    pub(crate) fn changed_settings(&self) -> Values {
        self.state.changed_settings()
    }

    /// Named statements it has.
    pub(crate) fn statement_names(&self) -> Vec<String> {
        self.statements.keys().filter(|n| !n.is_empty()).map(|n| n.escape_ascii().to_string()).collect()
    }

    /// Reads what a client sent.
    pub(crate) fn feed(&mut self, bytes: &[u8]) {
        self.inbox.extend(bytes);
        while !self.closed {
            let Some(head) = Head::read(&self.inbox).expect("only whole messages are sent to the model") else {
                return;
            };
            if self.inbox.len() < head.total() {
                return;
            }
            let message: Vec<u8> = self.inbox.drain(..head.total()).collect();
            self.asked_to_load |= message.windows(8).any(|w| w == b"load lib");
            self.handle(head.tag, &message[HEAD_LEN..]);
        }
    }

    fn handle(&mut self, tag: u8, body: &[u8]) {
        if self.copy.is_some() {
            return self.handle_in_copy(tag, body);
        }
        if tag == b'S' {
            self.skipping = false;
        } else if self.skipping && tag != b'X' {
            return;
        }
        match tag {
            b'Q' => self.query(body),
            b'P' | b'B' | b'D' | b'C' | b'E' => {
                let outcome = self.check_audit(tag, body).and_then(|()| self.extended(tag, body));
                if let Err(failure) = outcome {
                    self.fail(&failure);
                    self.skipping = true;
                }
            }
            b'S' => self.end_cycle(),
            b'H' => self.flush(),
            b'F' => self.function_call(body),
            b'd' | b'c' | b'f' => {}
            b'X' => self.closed = true,
            other => panic!("the model was sent message type {}", other.escape_ascii()),
        }
    }

    fn handle_in_copy(&mut self, tag: u8, body: &[u8]) {
        match tag {
            b'd' => self.copy.as_mut().expect("in copy mode").lines += 1,
            b'c' => {
                let copy = self.copy.take().expect("in copy mode");
                self.complete(&format!("COPY {}", copy.lines));
                if let Some(rest) = copy.query {
                    self.run_list(rest);
                }
            }
            b'f' => {
                let copy = self.copy.take().expect("in copy mode");
                let reason = String::from_utf8_lossy(body.strip_suffix(b"\0").unwrap_or(body)).into_owned();
                self.copy_failed_behind_sync |= copy.synced;
                self.fail(&("57014", format!("COPY from stdin failed: {reason}")));
                self.end_failed(copy.query.is_some());
            }
            b'S' => self.copy.as_mut().expect("in copy mode").synced = true,
            b'H' => {}
            b'X' => self.closed = true,
            other => {
                self.copy = None;
                self.fail(&("08P01", format!("unexpected message type 0x{other:02X} during COPY from stdin")));
                let text = "terminating connection because protocol synchronization was lost";
                BackendWriter(&mut self.held).report(Severity::Fatal, "08P01", text, "", "");
                self.flush();
                self.closed = true;
            }
        }
    }

    /// After an error outside the extended messages themselves.
    fn end_failed(&mut self, simple: bool) {
        if simple {
            self.in_list = false;
            self.end_cycle();
        } else {
            self.skipping = true;
        }
    }

    fn query(&mut self, body: &[u8]) {
        self.statements.remove(&b""[..]);
        self.portals.remove(&b""[..]);
        let text = String::from_utf8_lossy(body.strip_suffix(b"\0").unwrap_or(body)).into_owned();
        let list = text::split(&text);
        if let Some(failure) = list.iter().find_map(|text| commands::syntax_error(text)) {
            self.fail(&failure);
            return self.end_failed(true);
        }
        if list.is_empty() {
            BackendWriter(&mut self.held).bare(b'I');
        }
        self.in_list = list.len() > 1;
        self.run_list(list);
    }

    /// Runs what is left of a simple Query, as far as the next COPY FROM STDIN.
    fn run_list(&mut self, mut list: VecDeque<String>) {
        while let Some(text) = list.pop_front() {
            let outcome = self.check_replay(&text).and_then(|()| self.run(&text, &[], true));
            if let Err(failure) = outcome {
                self.fail(&failure);
                return self.end_failed(true);
            }
            if let Some(copy) = &mut self.copy {
                copy.query = Some(list);
                return;
            }
        }
        self.in_list = false;
        self.end_cycle();
    }

    fn function_call(&mut self, body: &[u8]) {
        let outcome = match body {
            _ if self.tx == TxStatus::Failed => Err(aborted()),
            [0, 0, 0, 0, ..] => Err(("42883", "function with OID 0 does not exist".to_owned())),
            _ => Ok(()),
        };
        match outcome {
            Ok(()) => self.held.extend(b"V\0\0\0\x08\xff\xff\xff\xff"),
            Err(failure) => self.fail(&failure),
        }
        self.end_cycle();
    }

    /// The implicit transaction ends; ReadyForQuery.
    fn end_cycle(&mut self) {
        if self.tx == TxStatus::Idle {
            self.end_transaction();
        }
        for name in REPORTED {
            let key = name.to_ascii_lowercase();
            let value = self.state.setting(&key).to_owned();
            if self.reported[&key] != value {
                BackendWriter(&mut self.held).parameter_status(name.as_bytes(), value.as_bytes());
                self.reported.insert(key, value);
            }
        }
        BackendWriter(&mut self.held).ready(self.tx);
        self.flush();
    }

    fn begin_transaction(&mut self) {
        self.state.begin();
    }

    fn end_transaction(&mut self) {
        self.state.commit();
        self.portals.clear();
    }

    fn fail(&mut self, (code, text): &Failure) {
        BackendWriter(&mut self.held).report(Severity::Error, code, text, "", "");
        self.state.roll_back();
        self.portals.clear();
        if self.tx == TxStatus::InBlock {
            self.tx = TxStatus::Failed;
        }
        self.flush();
    }

    fn flush(&mut self) {
        self.out.append(&mut self.held);
    }

    fn complete(&mut self, tag: &str) {
        BackendWriter(&mut self.held).command_complete(tag);
    }

    fn warn(&mut self, code: &str, text: &str) {
        BackendWriter(&mut self.held).report(Severity::Warning, code, text, "", "");
        self.flush();
    }

    fn describe_rows(&mut self, text: &str) {
        if commands::returns_rows(text) {
            let columns = [Column { name: "n".into(), type_oid: 25, type_len: -1 }];
            BackendWriter(&mut self.held).row_description(&columns, |_| false);
        } else {
            BackendWriter(&mut self.held).bare(b'n');
        }
    }
}

/// The answer to nearly everything in a failed transaction.
pub(crate) fn aborted() -> Failure {
    ("25P02", "current transaction is aborted, commands ignored until end of transaction block".to_owned())
}
