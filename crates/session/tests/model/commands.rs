//! The model's commands, and the extended protocol's messages around them.

use pgsluice_wire::{BackendWriter, Column, TxStatus};

use super::text::parameters;
use super::{CopyIn, Failure, Model, Portal, aborted};

/// The error a text meets when it is parsed.
pub(crate) fn syntax_error(text: &str) -> Option<Failure> {
    text.starts_with("bad").then(|| ("42601", format!("syntax error at or near \"{text}\"")))
}

/// Does a command return rows?
pub(crate) fn returns_rows(text: &str) -> bool {
    ["select", "show"].contains(&word(text, 0).as_str())
}

pub(super) fn word(text: &str, n: usize) -> String {
    text.split_whitespace().nth(n).unwrap_or_default().to_ascii_lowercase()
}

fn ends_failed_block(text: &str) -> bool {
    ["commit", "rollback"].contains(&word(text, 0).as_str())
}

fn cstr<'a>(body: &mut &'a [u8]) -> &'a [u8] {
    let end = body.iter().position(|&b| b == 0).expect("well-formed messages only");
    let (text, rest) = body.split_at(end);
    *body = &rest[1..];
    text
}

fn number(body: &mut &[u8], bytes: usize) -> u32 {
    let (n, rest) = body.split_at(bytes);
    *body = rest;
    n.iter().fold(0, |sum, &b| (sum << 8) | u32::from(b))
}

pub(super) fn missing_statement(name: &[u8]) -> Failure {
    if name.is_empty() {
        return ("26000", "unnamed prepared statement does not exist".into());
    }
    ("26000", format!("prepared statement \"{}\" does not exist", String::from_utf8_lossy(name)))
}

fn missing_portal(name: &[u8]) -> Failure {
    ("34000", format!("portal \"{}\" does not exist", String::from_utf8_lossy(name)))
}

impl Model {
    pub(super) fn extended(&mut self, tag: u8, body: &[u8]) -> Result<(), Failure> {
        self.begin_transaction();
        match tag {
            b'P' => self.parse(body),
            b'B' => self.bind(body),
            b'D' => self.describe(body),
            b'C' => self.close(body),
            _ => self.execute(body),
        }
    }

    fn parse(&mut self, mut body: &[u8]) -> Result<(), Failure> {
        let name = cstr(&mut body).to_vec();
        let text = String::from_utf8_lossy(cstr(&mut body)).trim().to_owned();
        if name.is_empty() {
            self.statements.remove(&name);
        }
        if let Some(failure) = syntax_error(&text) {
            return Err(failure);
        }
        if text.contains(';') {
            return Err(("42601", "cannot insert multiple commands into a prepared statement".into()));
        }
        if self.tx == TxStatus::Failed && !ends_failed_block(&text) {
            return Err(aborted());
        }
        if self.statements.contains_key(&name) {
            let text = format!("prepared statement \"{}\" already exists", String::from_utf8_lossy(&name));
            return Err(("42P05", text));
        }
        self.statements.insert(name, text);
        BackendWriter(&mut self.held).bare(b'1');
        Ok(())
    }

    fn bind(&mut self, mut body: &[u8]) -> Result<(), Failure> {
        let portal = cstr(&mut body).to_vec();
        let name = cstr(&mut body).to_vec();
        let Some(text) = self.statements.get(&name).cloned() else { return Err(missing_statement(&name)) };
        let formats = number(&mut body, 2);
        body = &body[2 * formats as usize..];
        let count = number(&mut body, 2);
        let values: Vec<String> = (0..count)
            .map(|_| {
                let len = number(&mut body, 4) as usize;
                let (value, rest) = body.split_at(len);
                body = rest;
                String::from_utf8_lossy(value).into_owned()
            })
            .collect();
        let wanted = parameters(&text);
        if values.len() != wanted {
            let name = String::from_utf8_lossy(&name);
            let text = format!(
                "bind message supplies {count} parameters, but prepared statement \"{name}\" requires {wanted}"
            );
            return Err(("08P01", text));
        }
        if self.tx == TxStatus::Failed && !ends_failed_block(&text) {
            return Err(aborted());
        }
        if !portal.is_empty() && self.portals.contains_key(&portal) {
            return Err(("42P03", format!("cursor \"{}\" already exists", String::from_utf8_lossy(&portal))));
        }
        self.portals.insert(portal, Portal { text, values, rows_sent: 0, done: false });
        BackendWriter(&mut self.held).bare(b'2');
        Ok(())
    }

    fn describe(&mut self, mut body: &[u8]) -> Result<(), Failure> {
        let kind = number(&mut body, 1);
        let name = cstr(&mut body);
        let text = if kind == u32::from(b'S') {
            self.statements.get(name).cloned().ok_or_else(|| missing_statement(name))?
        } else {
            self.portals.get(name).map(|p| p.text.clone()).ok_or_else(|| missing_portal(name))?
        };
        if self.tx == TxStatus::Failed && returns_rows(&text) {
            return Err(aborted());
        }
        if kind == u32::from(b'S') {
            let oids = vec![25; parameters(&text)];
            BackendWriter(&mut self.held).parameter_description(&oids);
        }
        self.describe_rows(&text);
        Ok(())
    }

    fn close(&mut self, mut body: &[u8]) -> Result<(), Failure> {
        let kind = number(&mut body, 1);
        let name = cstr(&mut body);
        if kind == u32::from(b'S') {
            self.statements.remove(name);
        } else {
            self.portals.remove(name);
        }
        BackendWriter(&mut self.held).bare(b'3');
        Ok(())
    }

    fn execute(&mut self, mut body: &[u8]) -> Result<(), Failure> {
        let name = cstr(&mut body).to_vec();
        let limit = number(&mut body, 4);
        let Some(portal) = self.portals.get(&name).cloned() else { return Err(missing_portal(&name)) };
        if self.tx == TxStatus::Failed && !ends_failed_block(&portal.text) {
            return Err(aborted());
        }
        if portal.text.is_empty() {
            BackendWriter(&mut self.held).bare(b'I');
            return Ok(());
        }
        if let Some(rows) = select_rows(&portal.text) {
            return self.fetch(&name, rows, limit);
        }
        if portal.done {
            return Err(("55000", format!("portal \"{}\" cannot be run", String::from_utf8_lossy(&name))));
        }
        self.run(&portal.text, &portal.values, false)?;
        if let Some(portal) = self.portals.get_mut(&name) {
            portal.done = true;
        }
        Ok(())
    }

    fn fetch(&mut self, name: &[u8], rows: u32, limit: u32) -> Result<(), Failure> {
        let portal = self.portals.get_mut(name).expect("looked up before");
        let left = rows - portal.rows_sent;
        let count = if limit == 0 { left } else { left.min(limit) };
        portal.rows_sent += count;
        let suspended = limit != 0 && count == limit;
        for n in 0..count {
            self.row(&n.to_string());
        }
        if suspended {
            BackendWriter(&mut self.held).bare(b's');
        } else {
            self.complete(&format!("SELECT {count}"));
        }
        Ok(())
    }

    pub(super) fn row(&mut self, value: &str) {
        BackendWriter(&mut self.held).data_row([Some(value.as_bytes())].into_iter());
    }

    /// Runs one command to its end, or into COPY mode.
    pub(super) fn run(&mut self, text: &str, values: &[String], simple: bool) -> Result<(), Failure> {
        self.begin_transaction();
        if self.tx == TxStatus::Failed && !ends_failed_block(text) {
            return Err(aborted());
        }
        if let Some(rows) = select_rows(text) {
            self.describe_if(simple);
            for n in 0..rows {
                self.row(&n.to_string());
            }
            self.complete(&format!("SELECT {rows}"));
            return Ok(());
        }
        if self.run_state(text, values, simple)? {
            return Ok(());
        }
        match word(text, 0).as_str() {
            "begin" => self.begin(),
            "commit" | "rollback" => self.end_block(&word(text, 0)),
            "error" => return Err(("22012", "division by zero".into())),
            "mark" => self.mark(),
            "copy" => self.copy(&word(text, 1)),
            _ => self.complete("DO"),
        }
        Ok(())
    }

    pub(super) fn describe_if(&mut self, simple: bool) {
        if simple {
            let columns = [Column { name: "n".into(), type_oid: 25, type_len: -1 }];
            BackendWriter(&mut self.held).row_description(&columns, |_| false);
        }
    }

    fn begin(&mut self) {
        if self.tx == TxStatus::Idle {
            self.tx = TxStatus::InBlock;
        } else {
            self.warn("25001", "there is already a transaction in progress");
        }
        self.complete("BEGIN");
    }

    fn end_block(&mut self, command: &str) {
        let keep = command == "commit" && self.tx != TxStatus::Failed;
        if self.tx == TxStatus::Idle {
            self.warn("25P01", "there is no transaction in progress");
        }
        if !keep {
            self.state.roll_back();
        }
        self.tx = TxStatus::Idle;
        self.end_transaction();
        self.complete(if keep { "COMMIT" } else { "ROLLBACK" });
    }

    fn copy(&mut self, direction: &str) {
        if direction == "in" {
            self.held.extend(b"G\0\0\0\x09\0\0\x01\0\0");
            self.flush();
            self.copy = Some(CopyIn { lines: 0, synced: false, query: None });
            return;
        }
        self.held.extend(b"H\0\0\0\x09\0\0\x01\0\0");
        for line in [b"1\n", b"2\n"] {
            self.held.extend(b"d\0\0\0\x06");
            self.held.extend(line);
        }
        BackendWriter(&mut self.held).bare(b'c');
        self.complete("COPY 2");
    }
}

/// `select N`: N.
fn select_rows(text: &str) -> Option<u32> {
    (word(text, 0) == "select").then(|| word(text, 1).parse().ok()).flatten()
}
