//! Prepared statements and portals of one console session: what Parse, Bind, Describe and Close make of them, and rows
//! on their way out of a portal. It does not run commands and does not know about errors until Sync.
//!
//! Source: PostgreSQL manual, "Extended Query"; `src/backend/tcop/postgres.c` for which names may be taken again. As
//! the console has no transactions, portals end at Sync.

use std::borrow::Cow;
use std::collections::HashMap;
use std::vec::IntoIter;

use pgsluice_wire::tag::backend;
use pgsluice_wire::{BackendWriter, Column, Parse, Target};

use crate::columns::{Kind, column, columns};
use crate::command::{Command, Subject, parse};
use crate::complaint::Complaint;
use crate::read;
use crate::value::{self, Cell};

/// Prepared statements of one console session, the unnamed one included. Drivers keep up to a few hundred.
pub const STATEMENTS_MAX: usize = 1024;

/// Portals of one console session between two Syncs. Each may hold a whole result.
pub const PORTALS_MAX: usize = 8;

/// Bytes of the name of a statement or portal.
pub const NAME_MAX: usize = 255;

/// Everything the extended protocol keeps between messages.
#[derive(Debug, Default)]
pub(crate) struct Extended {
    statements: HashMap<Vec<u8>, Command>,
    portals: HashMap<Vec<u8>, Portal>,
}

#[derive(Debug)]
struct Portal {
    command: Command,
    columns: Vec<Column>,
    /// Per column: is its format binary?
    binary: Vec<bool>,
    progress: Progress,
}

#[derive(Debug)]
enum Progress {
    Fresh,
    Rows(IntoIter<Vec<Cell>>),
    Done,
}

impl Extended {
    pub(crate) fn handle_parse(&mut self, body: &[u8], out: &mut Vec<u8>) -> Result<(), Complaint> {
        let message = Parse::read(body)?;
        let text = message.content.split(|&b| b == 0).next().unwrap_or_default();
        let command = parse(std::str::from_utf8(text).map_err(|_| Complaint::NotUtf8)?)?;
        check_name(message.name)?;
        let taken = self.statements.contains_key(message.name);
        if taken && !message.name.is_empty() {
            return Err(Complaint::StatementExists(lossy(message.name)));
        }
        if !taken && self.statements.len() >= STATEMENTS_MAX {
            return Err(Complaint::TooMany(STATEMENTS_MAX, "prepared statements"));
        }
        self.statements.insert(message.name.to_vec(), command);
        BackendWriter(out).bare(backend::PARSE_COMPLETE);
        Ok(())
    }

    pub(crate) fn handle_bind(&mut self, body: &[u8], out: &mut Vec<u8>) -> Result<(), Complaint> {
        let (front, tail) = read::bind(body)?;
        let command = self.statement(front.statement)?.clone();
        if tail.parameters != 0 {
            return Err(Complaint::HasNoParameters(tail.parameters));
        }
        check_name(front.portal)?;
        let taken = self.portals.contains_key(front.portal);
        if taken && !front.portal.is_empty() {
            return Err(Complaint::PortalExists(lossy(front.portal)));
        }
        if !taken && self.portals.len() >= PORTALS_MAX {
            return Err(Complaint::TooMany(PORTALS_MAX, "portals"));
        }
        let columns = command.columns().unwrap_or_default();
        let binary = formats(&tail.formats, columns.len())?;
        self.portals.insert(front.portal.to_vec(), Portal { command, columns, binary, progress: Progress::Fresh });
        BackendWriter(out).bare(backend::BIND_COMPLETE);
        Ok(())
    }

    pub(crate) fn handle_describe(&self, body: &[u8], out: &mut Vec<u8>) -> Result<(), Complaint> {
        let (command, binary) = match Target::read(body, "Describe")? {
            Target::Statement(name) => {
                let command = self.statement(name)?;
                BackendWriter(out).parameter_description(&[]);
                (command, &[][..])
            }
            Target::Portal(name) => {
                let portal = self.portals.get(name).ok_or_else(|| Complaint::NoPortal(lossy(name)))?;
                (&portal.command, &*portal.binary)
            }
        };
        match command.columns() {
            Some(columns) => BackendWriter(out).row_description(&columns, |i| is_binary(binary, i)),
            None => BackendWriter(out).bare(backend::NO_DATA),
        }
        Ok(())
    }

    pub(crate) fn handle_close(&mut self, body: &[u8], out: &mut Vec<u8>) -> Result<(), Complaint> {
        match Target::read(body, "Close")? {
            Target::Statement(name) => drop(self.statements.remove(name)),
            Target::Portal(name) => drop(self.portals.remove(name)),
        }
        BackendWriter(out).bare(backend::CLOSE_COMPLETE);
        Ok(())
    }

    /// Sync: the end of PostgreSQL's implicit transaction, and of every portal.
    pub(crate) fn handle_sync(&mut self) {
        self.portals.clear();
    }

    /// A simple Query takes the place of the unnamed statement and ends every portal.
    pub(crate) fn handle_query(&mut self) {
        self.statements.remove(&b""[..]);
        self.portals.clear();
    }

    /// DEALLOCATE of one named statement, or of all.
    pub(crate) fn deallocate(&mut self, name: Option<&str>) -> Result<(), Complaint> {
        match name {
            None => self.statements.clear(),
            Some(name) => {
                let gone = self.statements.remove(name.as_bytes());
                gone.ok_or_else(|| Complaint::NoStatement(name.to_owned()))?;
            }
        }
        Ok(())
    }

    /// The command that an Execute of this portal has to run; `None` when it ran already and rows are all there is to
    /// send.
    pub(crate) fn start(&self, name: &[u8]) -> Result<Option<Command>, Complaint> {
        let portal = self.portals.get(name).ok_or_else(|| Complaint::NoPortal(lossy(name)))?;
        match portal.progress {
            Progress::Fresh => Ok(Some(portal.command.clone())),
            Progress::Rows(_) => Ok(None),
            Progress::Done => Err(Complaint::PortalDone(lossy(name))),
        }
    }

    /// The command of a portal ran and has these rows.
    pub(crate) fn fill(&mut self, name: &[u8], rows: Vec<Vec<Cell>>) {
        if let Some(portal) = self.portals.get_mut(name) {
            portal.progress = Progress::Rows(rows.into_iter());
        }
    }

    /// The command of a portal ran and has no rows.
    pub(crate) fn finish(&mut self, name: &[u8]) {
        if let Some(portal) = self.portals.get_mut(name) {
            portal.progress = Progress::Done;
        }
    }

    /// Sends up to `max` rows of a portal, 0 for all, and then whether that was the end.
    pub(crate) fn fetch(&mut self, name: &[u8], max: usize, out: &mut Vec<u8>) {
        let Some(portal) = self.portals.get_mut(name) else { return };
        let Progress::Rows(rows) = &mut portal.progress else { return };
        let max = if max == 0 { usize::MAX } else { max };
        for row in rows.by_ref().take(max) {
            write_row(out, &portal.columns, &portal.binary, &row);
        }
        if rows.len() == 0 {
            BackendWriter(out).command_complete(&portal.command.tag());
        } else {
            BackendWriter(out).bare(backend::PORTAL_SUSPENDED);
        }
    }

    fn statement(&self, name: &[u8]) -> Result<&Command, Complaint> {
        self.statements.get(name).ok_or_else(|| Complaint::NoStatement(lossy(name)))
    }
}

impl Command {
    /// The columns of its result; `None` when it has no result.
    pub(crate) fn columns(&self) -> Option<Vec<Column>> {
        match self {
            Self::Show(Subject::Help) => None,
            Self::Show(subject) => Some(columns(*subject)),
            Self::Constant(constant) => {
                let kind = if constant.is_int { Kind::Int4 } else { Kind::Text };
                Some(vec![column((constant.name, kind))])
            }
            _ => None,
        }
    }
}

/// Writes one DataRow; columns beyond the end of `binary` are in text format.
pub(crate) fn write_row(out: &mut Vec<u8>, columns: &[Column], binary: &[bool], row: &[Cell]) {
    let encode = |(i, column): (usize, &Column)| {
        let text = row.get(i)?.as_deref()?;
        if is_binary(binary, i) {
            value::binary(Kind::of(column.type_oid), text).map(Cow::Owned)
        } else {
            Some(Cow::Borrowed(text.as_bytes()))
        }
    };
    let values: Vec<Option<Cow<'_, [u8]>>> = columns.iter().enumerate().map(encode).collect();
    BackendWriter(out).data_row(values.iter().map(Option::as_deref));
}

fn is_binary(binary: &[bool], column: usize) -> bool {
    binary.get(column).copied().unwrap_or(false)
}

/// Result format codes of a Bind: none for all text, one for all columns, or one for each.
fn formats(codes: &[u16], columns: usize) -> Result<Vec<bool>, Complaint> {
    if let Some(&code) = codes.iter().find(|&&code| code > 1) {
        return Err(Complaint::UnknownFormat(code));
    }
    match codes {
        [] => Ok(Vec::new()),
        [one] => Ok(vec![*one == 1; columns]),
        each if each.len() == columns => Ok(each.iter().map(|&code| code == 1).collect()),
        _ => Err(Complaint::WrongFormatCount { formats: codes.len(), columns }),
    }
}

fn check_name(name: &[u8]) -> Result<(), Complaint> {
    if name.len() > NAME_MAX { Err(Complaint::TooMany(NAME_MAX, "bytes in a name")) } else { Ok(()) }
}

fn lossy(name: &[u8]) -> String {
    String::from_utf8_lossy(&name[..name.len().min(NAME_MAX)]).into_owned()
}
