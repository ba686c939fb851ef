//! The console's side of the protocol for one session, after login: bytes of the client in, answers and wants out. It
//! is a pure state machine; it neither takes snapshots nor runs commands but says which it wants.
//!
//! The caller's loop: give it bytes, drop what it consumed; send and empty the outbox; see to what it wants. It takes
//! no more bytes while a want is open or while the outbox holds [`OUTBOX_MAX`] bytes or more.
//!
//! Source: PostgreSQL manual, "Message Flow"; PgBouncer's `src/admin.c` for what the console answers.

use std::collections::VecDeque;

use pgsluice_wire::tag::{backend, frontend};
use pgsluice_wire::{BackendWriter, HEAD_LEN, Head, Severity, TxStatus, sqlstate};

use crate::command::{Command, Constant, Subject, parse_all};
use crate::complaint::{Complaint, Failure};
use crate::extended::{Extended, write_row};
use crate::parameters::{self, USAGE};
use crate::read;
use crate::render::{Table, render};
use crate::snapshot::Snapshot;

/// Bytes of one message from a console client, its head included.
pub const MESSAGE_MAX: usize = 64 * 1024;

/// Bytes in the outbox from which on nothing more is read. One answer may exceed it by its own length.
pub const OUTBOX_MAX: usize = 256 * 1024;

/// Commands in the text of one Query.
pub const QUERY_COMMANDS_MAX: usize = 32;

/// What a console client may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Access {
    /// Everything (`admin_users`).
    Admin,
    /// Look only (`stats_users`).
    Stats,
}

/// What the console needs of its caller.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Want {
    /// A snapshot that covers this subject, for [`Console::handle_snapshot`].
    Snapshot(Subject),
    /// This command carried out, and how that went, for [`Console::handle_outcome`]. It may take its time.
    Run(Command),
    /// The connection closed, once the outbox is sent.
    Close,
}

/// One console session.
#[derive(Debug)]
pub struct Console {
    access: Access,
    state: State,
    /// Commands of the current Query that are still to be run.
    queue: VecDeque<Command>,
    extended: Extended,
    out: Vec<u8>,
    want: Option<Want>,
}

#[derive(Debug)]
enum State {
    /// Reads the next message.
    Ready,
    /// Drops messages up to Sync, after an error in the extended protocol.
    Skipping,
    /// A want is open; its answer belongs to this command.
    Awaiting { command: Command, reply: Reply },
    /// The end.
    Closed,
}

/// What the answer to a command is part of.
#[derive(Debug)]
enum Reply {
    Query,
    Portal { name: Vec<u8>, max: usize },
}

/// What came of a command.
enum Answer {
    Rows(Table),
    Done,
    Empty,
    Usage,
    Later(Want),
}

impl Console {
    /// A session of a client that has logged in.
    pub fn new(access: Access) -> Self {
        Self {
            access,
            state: State::Ready,
            queue: VecDeque::new(),
            extended: Extended::default(),
            out: Vec::new(),
            want: None,
        }
    }

    /// Bytes for the client; the caller sends and removes them.
    pub fn outbox(&mut self) -> &mut Vec<u8> {
        &mut self.out
    }

    /// Writes the ParameterStatus messages that follow AuthenticationOk. BackendKeyData and the first ReadyForQuery are
    /// the caller's.
    pub fn welcome(&mut self) {
        for parameter in parameters::reported(self.access) {
            BackendWriter(&mut self.out).parameter_status(parameter.name.as_bytes(), parameter.value.as_bytes());
        }
    }

    /// Takes whole messages from the front of `bytes` and returns how many bytes they were. The rest has to come again,
    /// with more: after more arrived, after a want was answered, or after the outbox was sent.
    pub fn handle_client(&mut self, bytes: &[u8]) -> usize {
        let mut taken = 0;
        while self.is_listening() {
            let Some((tag, body)) = self.next_message(&bytes[taken..]) else { break };
            taken += HEAD_LEN + body.len();
            self.handle_message(tag, body);
        }
        taken
    }

    /// The answer to [`Want::Snapshot`]; ignored when none is open.
    pub fn handle_snapshot(&mut self, snapshot: &Snapshot) {
        if let State::Awaiting { command: Command::Show(subject), .. } = self.state {
            self.resume(Ok(Answer::Rows(render(subject, snapshot))));
        }
    }

    /// The answer to [`Want::Run`]; ignored when none is open.
    ///
    /// # Errors
    /// None of its own: a [`Failure`] is what the client is told.
    pub fn handle_outcome(&mut self, outcome: Result<(), Failure>) {
        if matches!(&self.state, State::Awaiting { command, .. } if command.needs_admin()) {
            self.resume(outcome.map(|()| Answer::Done).map_err(Complaint::Failure));
        }
    }

    /// What it wants, once per want.
    pub fn poll_want(&mut self) -> Option<Want> {
        self.want.take()
    }

    fn is_listening(&self) -> bool {
        matches!(self.state, State::Ready | State::Skipping) && self.out.len() < OUTBOX_MAX
    }

    /// Type and body of the message at the front, when it is whole.
    fn next_message<'b>(&mut self, bytes: &'b [u8]) -> Option<(u8, &'b [u8])> {
        match Head::read(bytes) {
            Ok(Some(head)) if head.total() > MESSAGE_MAX => {
                self.die(&format!("the console takes no message over {MESSAGE_MAX} bytes"));
                None
            }
            Ok(head) => head.and_then(|head| Some((head.tag, bytes.get(HEAD_LEN..head.total())?))),
            Err(bad) => {
                self.die(&bad.to_string());
                None
            }
        }
    }

    fn handle_message(&mut self, tag: u8, body: &[u8]) {
        use frontend::{
            BIND, CLOSE, COPY_DATA, COPY_DONE, COPY_FAIL, DESCRIBE, EXECUTE, FLUSH, FUNCTION_CALL, PARSE, QUERY, SYNC,
            TERMINATE,
        };
        let skipping = matches!(self.state, State::Skipping);
        match tag {
            TERMINATE => self.close(),
            SYNC => self.handle_sync(),
            QUERY if !skipping => self.handle_query(body),
            FUNCTION_CALL if !skipping => self.refuse_query(&Complaint::FunctionCall),
            PARSE | BIND | DESCRIBE | CLOSE | EXECUTE if !skipping => {
                if let Err(complaint) = self.handle_extended(tag, body) {
                    self.skip(&complaint);
                }
            }
            // The caller sends the outbox anyway, and PostgreSQL drops what is left of a failed COPY.
            FLUSH | COPY_DATA | COPY_DONE | COPY_FAIL => {}
            PARSE | BIND | DESCRIBE | CLOSE | EXECUTE | QUERY | FUNCTION_CALL => {}
            other => self.die(&format!("invalid frontend message type {other}")),
        }
    }

    fn handle_sync(&mut self) {
        self.state = State::Ready;
        self.extended.handle_sync();
        self.ready();
    }

    fn handle_query(&mut self, body: &[u8]) {
        self.extended.handle_query();
        match commands(body) {
            Ok(commands) if commands.is_empty() => {
                BackendWriter(&mut self.out).bare(backend::EMPTY_QUERY_RESPONSE);
                self.ready();
            }
            Ok(commands) => {
                self.queue = commands.into();
                self.advance();
            }
            Err(complaint) => self.refuse_query(&complaint),
        }
    }

    fn handle_extended(&mut self, tag: u8, body: &[u8]) -> Result<(), Complaint> {
        match tag {
            frontend::PARSE => self.extended.handle_parse(body, &mut self.out),
            frontend::BIND => self.extended.handle_bind(body, &mut self.out),
            frontend::DESCRIBE => self.extended.handle_describe(body, &mut self.out),
            frontend::CLOSE => self.extended.handle_close(body, &mut self.out),
            _ => self.handle_execute(body),
        }
    }

    fn handle_execute(&mut self, body: &[u8]) -> Result<(), Complaint> {
        let (name, max) = read::execute(body)?;
        let Some(command) = self.extended.start(name)? else {
            self.extended.fetch(name, max, &mut self.out);
            return Ok(());
        };
        match self.perform(&command)? {
            Answer::Later(want) => self.wait(want, command, Reply::Portal { name: name.to_vec(), max }),
            answer => self.answer_portal(&command, answer, name, max),
        }
        Ok(())
    }

    /// Runs the commands of a Query until one has to wait or all are done.
    fn advance(&mut self) {
        while let Some(command) = self.queue.pop_front() {
            match self.perform(&command) {
                Ok(Answer::Later(want)) => return self.wait(want, command, Reply::Query),
                Ok(answer) => self.answer_query(&command, answer),
                Err(complaint) => return self.refuse_query(&complaint),
            }
        }
        self.ready();
    }

    /// Does what can be done here, and says what is needed for the rest.
    fn perform(&mut self, command: &Command) -> Result<Answer, Complaint> {
        if command.needs_admin() {
            return match self.access {
                Access::Admin => Ok(Answer::Later(Want::Run(command.clone()))),
                Access::Stats => Err(Complaint::NeedsAdmin),
            };
        }
        Ok(match command {
            Command::Empty => Answer::Empty,
            Command::Show(subject) => show(*subject),
            Command::Constant(constant) => Answer::Rows(table(command, constant)),
            Command::Deallocate(name) => self.extended.deallocate(name.as_deref()).map(|()| Answer::Done)?,
            Command::DiscardAll => self.extended.deallocate(None).map(|()| Answer::Done)?,
            _ => Answer::Done,
        })
    }

    fn wait(&mut self, want: Want, command: Command, reply: Reply) {
        self.want = Some(want);
        self.state = State::Awaiting { command, reply };
    }

    /// Goes on where [`Console::wait`] left off.
    fn resume(&mut self, answer: Result<Answer, Complaint>) {
        let State::Awaiting { command, reply } = std::mem::replace(&mut self.state, State::Ready) else { return };
        self.want = None;
        match (reply, answer) {
            (Reply::Query, Ok(answer)) => {
                self.answer_query(&command, answer);
                self.advance();
            }
            (Reply::Query, Err(complaint)) => self.refuse_query(&complaint),
            (Reply::Portal { name, max }, Ok(answer)) => self.answer_portal(&command, answer, &name, max),
            (Reply::Portal { .. }, Err(complaint)) => self.skip(&complaint),
        }
    }

    fn answer_query(&mut self, command: &Command, answer: Answer) {
        let mut writer = BackendWriter(&mut self.out);
        match answer {
            Answer::Rows(table) => {
                writer.row_description(&table.columns, |_| false);
                for row in &table.rows {
                    write_row(&mut self.out, &table.columns, &[], row);
                }
            }
            Answer::Usage => usage(&mut writer),
            Answer::Done | Answer::Empty | Answer::Later(_) => {}
        }
        BackendWriter(&mut self.out).command_complete(&command.tag());
    }

    fn answer_portal(&mut self, command: &Command, answer: Answer, name: &[u8], max: usize) {
        if let Answer::Rows(table) = answer {
            self.extended.fill(name, table.rows);
            return self.extended.fetch(name, max, &mut self.out);
        }
        self.extended.finish(name);
        let mut writer = BackendWriter(&mut self.out);
        if let Answer::Empty = answer {
            return writer.bare(backend::EMPTY_QUERY_RESPONSE);
        }
        if let Answer::Usage = answer {
            usage(&mut writer);
        }
        writer.command_complete(&command.tag());
    }

    /// Ends a Query with an error; what is left of it is not run.
    fn refuse_query(&mut self, complaint: &Complaint) {
        self.queue.clear();
        complaint.write(&mut self.out);
        self.ready();
    }

    /// An error in the extended protocol.
    fn skip(&mut self, complaint: &Complaint) {
        complaint.write(&mut self.out);
        self.state = State::Skipping;
    }

    fn ready(&mut self) {
        BackendWriter(&mut self.out).ready(TxStatus::Idle);
    }

    /// The client broke the protocol so that nothing that follows can be trusted.
    fn die(&mut self, why: &str) {
        BackendWriter(&mut self.out).report(Severity::Fatal, sqlstate::PROTOCOL_VIOLATION, why, "", "");
        self.close();
    }

    fn close(&mut self) {
        self.state = State::Closed;
        self.want = Some(Want::Close);
    }
}

/// The commands of a Query.
fn commands(body: &[u8]) -> Result<Vec<Command>, Complaint> {
    let text = std::str::from_utf8(read::query(body)?).map_err(|_| Complaint::NotUtf8)?;
    let commands = parse_all(text)?;
    if commands.len() > QUERY_COMMANDS_MAX {
        return Err(Complaint::TooMany(QUERY_COMMANDS_MAX, "commands in one query"));
    }
    Ok(commands)
}

/// Answers what does not depend on the pooler, asks for the rest.
fn show(subject: Subject) -> Answer {
    match subject {
        Subject::Help => Answer::Usage,
        Subject::Version | Subject::Param(_) | Subject::Peers | Subject::PeerPools => {
            Answer::Rows(render(subject, &Snapshot::default()))
        }
        _ => Answer::Later(Want::Snapshot(subject)),
    }
}

fn table(command: &Command, constant: &Constant) -> Table {
    Table { columns: command.columns().unwrap_or_default(), rows: vec![vec![Some(constant.value.to_owned())]] }
}

fn usage(writer: &mut BackendWriter<'_>) {
    // The SQLSTATE successful_completion, as PostgreSQL's own notices have.
    writer.report(Severity::Notice, "00000", "Console usage", USAGE, "");
}
