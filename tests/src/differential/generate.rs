//! Makes cases from a seed: what three clients do, valid and not, in steps that are one write each.
//!
//! What transaction pooling does not carry from transaction to transaction is left out, as it cannot be the same: settings
//! that PostgreSQL does not report (but for `SET LOCAL`), temporary tables, advisory locks, LISTEN, cursors WITH HOLD, and
//! SQL's PREPARE, whose statements are used in the Query that makes them only. The rest of what is avoided is in
//! docs/protocol.md, and named where it is avoided.

use super::case::{CLIENTS, Case, Split, Step};
use super::op::{Bind, Op};
use super::sql;
use crate::random::Random;

/// Names of statements; all clients use all of them, and some are like ours.
const STATEMENTS: [&str; 8] = ["", "", "a", "a", "b", "A", "pgsluice_1", "pgsluice_2"];
/// Names of portals.
const PORTALS: [&str; 5] = ["", "", "", "p", "cur"];
/// What is copied, good (the first, in most formats) and bad.
const COPY_DATA: [&[u8]; 10] = [
    b"3\tthree\n",
    b"3\tthree\n",
    b"6\tsix\n7\tseven\n",
    b"4\tfour\n",
    b"x\tbad\n",
    b"1\ttwice\n",
    b"5\thalf",
    b"",
    b"\\.\n",
    b"1\n",
];
/// Bytes of one write, at most, that is cut everywhere.
const EVERY_BYTE_MAX: usize = 600;

/// The case of a seed: the clients' scripts one after the other, still to be interleaved.
pub(super) fn scripts(random: &mut Random) -> Case {
    let mut steps = Vec::new();
    for client in 0..CLIENTS {
        let mut script =
            Script { client, random, ops: Vec::new(), parameters: Vec::new(), serial: 0, bound: false, in_copy: false };
        script.write(&mut steps);
    }
    Case { steps }
}

struct Script<'r> {
    client: usize,
    random: &'r mut Random,
    /// Messages of the step in the making.
    ops: Vec<Op>,
    /// How many parameters a statement has that was parsed under a name.
    parameters: Vec<(String, usize)>,
    serial: usize,
    /// The unnamed portal was bound since the last message that may destroy it.
    bound: bool,
    /// What was written last may leave a COPY open.
    in_copy: bool,
}

impl Script<'_> {
    fn write(&mut self, steps: &mut Vec<Step>) {
        let count = 1 + self.random.below(7);
        for at in 0..count {
            let kind = self.random.weighted(&[30, 45, 10, 5, 3, 4, 1, 1]);
            match kind {
                0 => self.queries(),
                1 => self.batch(),
                2 => self.copy(),
                3 => self.transaction(),
                4 => self.ddl(),
                5 => self.function_call(),
                6 => self.pipeline(),
                _ => self.wrong_bytes(),
            }
            let mut ops = std::mem::take(&mut self.ops);
            self.spare_postgres(&mut ops);
            self.in_copy = kind == 2;
            self.cut(ops, at + 1 == count, steps);
        }
        if self.random.chance(5) {
            self.end(steps);
        }
    }

    /// PostgreSQL crashes (15, and maybe others) when a client in a failed transaction uses the unnamed portal that a failed
    /// simple Query has left: its statements are gone (`exec_execute_message`). So it is used behind a Bind only.
    fn spare_postgres(&mut self, ops: &mut [Op]) {
        for op in ops {
            match op {
                Op::Bind(bind) => self.bound |= bind.portal.is_empty(),
                Op::Sync | Op::Query(_) | Op::FunctionCall(..) => self.bound = false,
                Op::Execute(portal, _) | Op::Describe('P', portal) if portal.is_empty() && !self.bound => {
                    *portal = "p".into();
                }
                _ => {}
            }
        }
    }

    /// One step of these messages, or several.
    fn cut(&mut self, mut ops: Vec<Op>, last: bool, steps: &mut Vec<Step>) {
        while !ops.is_empty() {
            let len = if self.random.chance(75) { ops.len() } else { 1 + self.random.below(ops.len()) };
            let rest = ops.split_off(len);
            let mut step = Step { client: self.client, ops, ..Step::default() };
            let bytes = step.bytes().len();
            step.split = match self.random.below(10) {
                0 if bytes <= EVERY_BYTE_MAX => Split::EveryByte,
                0..3 => Split::At(self.offsets(bytes)),
                _ => Split::Whole,
            };
            step.later = !(self.in_copy || last && rest.is_empty()) && self.random.chance(10);
            steps.push(step);
            ops = rest;
        }
    }

    fn offsets(&mut self, len: usize) -> Vec<usize> {
        let mut at: Vec<_> = (0..1 + self.random.below(4)).map(|_| 1 + self.random.below(len)).collect();
        at.sort_unstable();
        at.dedup();
        at
    }

    fn queries(&mut self) {
        for _ in 0..1 + self.random.below(3) {
            let sql = self.query_text();
            self.ops.push(Op::Query(sql));
        }
    }

    fn query_text(&mut self) -> String {
        self.serial += 1;
        sql::query(self.random, self.client, self.serial)
    }

    /// Messages of the extended protocol, ended in one of the ways there are.
    fn batch(&mut self) {
        for _ in 0..1 + self.random.below(6) {
            self.extended();
        }
        match self.random.below(20) {
            0..13 => self.ops.push(Op::Sync),
            13..15 => self.ops.push(Op::Flush),
            15..17 => self.ops.extend([Op::Flush, Op::Sync]),
            17 => self.ops.extend([Op::Sync, Op::Sync, Op::Sync]),
            18 => {
                let sql = self.query_text();
                self.ops.push(Op::Query(sql));
            }
            _ => {}
        }
    }

    fn extended(&mut self) {
        match self.random.weighted(&[24, 16, 14, 8, 8, 10, 6, 3]) {
            0 => self.whole(),
            1 => self.parse(),
            2 => self.bind_and_execute(),
            3 => self.describe(),
            4 => self.execute(),
            5 => self.close(),
            6 => self.ops.push(Op::Flush),
            _ => self.ops.push(Op::Sync),
        }
    }

    /// Parse to Execute, as drivers do.
    fn whole(&mut self) {
        let statement = self.random.text(&STATEMENTS);
        if !statement.is_empty() && self.random.chance(40) {
            self.ops.push(Op::Close('S', statement.clone()));
        }
        self.parse_as(statement.clone());
        if self.random.chance(40) {
            self.ops.push(Op::Describe('S', statement.clone()));
        }
        let portal = self.random.text(&PORTALS);
        self.bind_as(portal.clone(), statement);
        if self.random.chance(40) {
            self.ops.push(Op::Describe('P', portal.clone()));
        }
        let rows = *self.random.pick(&[0, 0, 0, 1, 2]);
        self.ops.push(Op::Execute(portal, rows));
    }

    fn parse(&mut self) {
        let statement = self.random.text(&STATEMENTS);
        self.parse_as(statement);
    }

    fn parse_as(&mut self, name: String) {
        let text = sql::statement(self.random, self.client);
        let count = sql::parameters(&text);
        self.parameters.retain(|(known, _)| *known != name);
        self.parameters.push((name.clone(), count));
        let types = (0..count).filter(|_| self.random.chance(15)).map(|_| 25).collect();
        self.ops.push(Op::Parse(name, text, types));
    }

    fn bind_and_execute(&mut self) {
        let (portal, statement) = (self.random.text(&PORTALS), self.random.text(&STATEMENTS));
        self.bind_as(portal.clone(), statement);
        self.ops.push(Op::Execute(portal, 0));
    }

    fn bind_as(&mut self, portal: String, statement: String) {
        let statement = if self.random.chance(4) { "unknown".into() } else { statement };
        let known = self.parameters.iter().find(|(name, _)| *name == statement).map_or(0, |(_, count)| *count);
        let count = if self.random.chance(6) { self.random.below(3) } else { known };
        let mut bind = Bind { portal, statement, ..Bind::default() };
        for _ in 0..count {
            bind.values.push(match self.random.below(10) {
                0 => None,
                1 => Some(b"text".to_vec()),
                2 => Some(b"0".to_vec()),
                _ => Some((1 + self.random.below(5)).to_string().into_bytes()),
            });
        }
        if count > 0 && self.random.chance(15) {
            bind.formats = vec![1];
            bind.values = (0..count).map(|n| Some((n as u32 + 1).to_be_bytes().to_vec())).collect();
        }
        if self.random.chance(25) {
            bind.results = vec![1];
        }
        self.ops.push(Op::Bind(bind));
    }

    fn describe(&mut self) {
        let (kind, name) = self.target();
        self.ops.push(Op::Describe(kind, name));
    }

    fn close(&mut self) {
        let (kind, name) = self.target();
        self.ops.push(Op::Close(kind, name));
    }

    fn target(&mut self) -> (char, String) {
        if self.random.chance(60) { ('S', self.random.text(&STATEMENTS)) } else { ('P', self.random.text(&PORTALS)) }
    }

    fn execute(&mut self) {
        let portal = self.random.text(&PORTALS);
        let rows = *self.random.pick(&[0, 1, 2, 100]);
        self.ops.push(Op::Execute(portal, rows));
        if rows > 0 && self.random.chance(30) {
            self.ops.push(Op::Execute(self.ops_portal(), 0));
        }
    }

    fn ops_portal(&self) -> String {
        match self.ops.last() {
            Some(Op::Execute(portal, _)) => portal.clone(),
            _ => String::new(),
        }
    }

    /// COPY FROM STDIN with data, good and bad, in one or several pieces, and what comes between.
    fn copy(&mut self) {
        let copy = sql::copy_in(self.random, self.client);
        let is_plain = copy.starts_with("COPY t") && copy.ends_with("FROM STDIN") && !copy.contains('(');
        let extended = self.random.chance(40);
        if extended {
            self.ops.push(Op::Parse(String::new(), copy, Vec::new()));
            self.ops.push(Op::Bind(Bind::default()));
            self.ops.push(Op::Execute(String::new(), 0));
            match self.random.below(4) {
                0 => self.ops.push(Op::Sync),
                1 => self.ops.push(Op::Flush),
                _ => {}
            }
        } else {
            self.ops.push(Op::Query(copy));
        }
        let pieces = self.random.below(4);
        for piece in 0..pieces {
            let data = *self.random.pick(&COPY_DATA);
            self.ops.push(Op::CopyData(data.to_vec()));
            if self.disturb_copy(is_plain && piece == 0 && data == COPY_DATA[0]) {
                return;
            }
        }
        match self.random.below(10) {
            0..2 => self.ops.push(Op::CopyFail("enough".into())),
            2 if !extended => return,
            _ => self.ops.push(Op::CopyDone),
        }
        if extended || self.random.chance(10) {
            self.ops.push(Op::Sync);
        }
        if self.random.chance(10) {
            let more = if self.random.chance(50) { Op::CopyDone } else { Op::CopyData(b"8\tlate\n".to_vec()) };
            self.ops.push(more);
        }
    }

    /// What may come behind data. Is it the last that does? (Whether a Sync behind data that makes the COPY fail is answered
    /// is not for us to know when more follows: see docs/protocol.md.)
    fn disturb_copy(&mut self, all_good: bool) -> bool {
        let is_last = self.random.chance(50);
        match self.random.below(60) {
            0..3 => self.ops.push(Op::Flush),
            3..6 if is_last => self.ops.push(Op::Sync),
            // PostgreSQL says no, then closes; or answers, if the COPY has failed.
            6 if all_good => self.ops.push(Op::Query("SELECT 'in the middle'".into())),
            7 if all_good => self.parse(),
            _ => return false,
        }
        is_last
    }

    /// A block with several steps in it.
    fn transaction(&mut self) {
        self.ops.push(Op::Query(self.random.text(&["BEGIN", "BEGIN", "START TRANSACTION READ ONLY"])));
        for _ in 0..1 + self.random.below(3) {
            if self.random.chance(50) { self.queries() } else { self.batch() }
        }
        if self.random.chance(80) {
            let end = self.random.text(&["COMMIT", "ROLLBACK", "END", "ABORT"]);
            self.ops.push(Op::Query(end));
        }
    }

    /// A statement whose result becomes another after it was prepared, on one server: in one block, which has to end then.
    fn ddl(&mut self) {
        let (client, name) = (self.client, self.random.text(&["a", "b", ""]));
        let bind = Op::Bind(Bind { statement: name.clone(), ..Bind::default() });
        let run = [bind, Op::Execute(String::new(), 0), Op::Sync];
        let rest = self.random.text(&["ROLLBACK", "BEGIN"]);
        self.ops.extend([Op::Sync, Op::Query("ROLLBACK".into()), Op::Query(rest), Op::Query("BEGIN".into())]);
        if !name.is_empty() {
            self.ops.push(Op::Close('S', name.clone()));
        }
        self.ops.push(Op::Parse(name.clone(), format!("SELECT * FROM d{client}"), Vec::new()));
        self.ops.extend(run.clone());
        let to = self.random.text(&["text", "int", "bigint"]);
        self.ops.push(Op::Query(format!("ALTER TABLE d{client} ALTER a TYPE {to} USING a::{to}")));
        if name.is_empty() {
            self.ops.push(Op::Parse(name, format!("SELECT * FROM d{client}"), Vec::new()));
        }
        self.ops.extend(run);
        self.ops.push(Op::Query("ROLLBACK".into()));
    }

    fn function_call(&mut self) {
        // int4pl, int4div, and none.
        let oid = *self.random.pick(&[177, 177, 154, 999_999]);
        let lists = [&["4", "2"][..], &["4", "0"], &["4", "2"], &["4"], &["x", "2"]];
        let arguments = self.random.pick(&lists);
        self.ops.push(Op::FunctionCall(oid, arguments.iter().map(|&a| a.to_owned()).collect()));
        if self.random.chance(30) {
            self.batch();
        }
    }

    /// Hundreds of messages in one write.
    fn pipeline(&mut self) {
        let syncs = self.random.chance(50);
        for _ in 0..30 + self.random.below(100) {
            self.extended();
            if syncs && self.random.chance(30) {
                self.ops.push(Op::Sync);
            }
        }
        self.ops.push(Op::Sync);
        // An unnamed statement that is replaced is kept for so long only: docs/protocol.md.
        for op in &mut self.ops {
            match op {
                Op::Parse(name, ..) | Op::Describe('S', name) | Op::Close('S', name) if name.is_empty() => {
                    *name = "c".into()
                }
                Op::Bind(bind) if bind.statement.is_empty() => bind.statement = "c".into(),
                _ => {}
            }
        }
    }

    /// Messages that break their format. PostgreSQL answers most of them and goes on.
    fn wrong_bytes(&mut self) {
        let wrong: [&[u8]; 16] = [
            b"y\0\0\0\x04",
            b"Q\0\0\0\x03",
            b"S\0\0\0\0",
            b"S\0\0\0\x05x",
            b"H\0\0\0\x05x",
            b"Q\0\0\0\x0cSELECT 1",
            b"Q\0\0\0\x0eSELECT 1\0x",
            b"P\0\0\0\x06a\0",
            b"P\0\0\0\x0fa\0SELECT 1\0",
            b"P\0\0\0\x13a\0SELECT 1\0\0\x01\0\0",
            b"B\0\0\0\x07\0a\0",
            b"B\0\0\0\x05x",
            b"D\0\0\0\x07Xa\0",
            b"D\0\0\0\x06Sa",
            b"C\0\0\0\x07Xa\0",
            b"E\0\0\0\x06\0\0",
        ];
        if self.random.chance(50) {
            self.extended();
        }
        self.ops.push(Op::Raw(self.random.pick(&wrong).to_vec()));
        if self.random.chance(50) {
            self.extended();
        }
        self.ops.push(Op::Sync);
    }

    /// The connection ends without a word, in the middle of something; or politely. What is in flight then is cancelled by
    /// us and run to its end by PostgreSQL, so all answers are waited for first.
    fn end(&mut self, steps: &mut Vec<Step>) {
        if let Some(step) = steps.last_mut().filter(|step| step.client == self.client) {
            step.later = false;
        }
        let polite = self.random.chance(30);
        if !polite && self.random.chance(50) {
            self.parse_as(String::new());
        }
        if !polite && self.random.chance(50) {
            self.ops.push(Op::Raw(b"Q\0\0\0\x20SELECT".to_vec()));
            self.ops.push(Op::HangUp);
        } else {
            self.ops.push(if polite { Op::Terminate } else { Op::HangUp });
        }
        steps.push(Step { client: self.client, ops: std::mem::take(&mut self.ops), ..Step::default() });
    }
}
