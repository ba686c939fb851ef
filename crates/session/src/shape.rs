//! The shape of a statement's rows, as its clients know it. A server that prepares the statement later, when tables have
//! changed, would answer with rows of another shape; PostgreSQL itself refuses that ("cached plan must not change result
//! type"), and drivers rely on it.
//!
//! So where a client has described a statement, a server that lacks it is asked to describe what it has just prepared,
//! before the client's message is passed on: one round trip, once per server and statement.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

use pgsluice_wire::{BackendWriter, FrontendWriter, RowDescription, field, sqlstate, tag::frontend};

use crate::Ctx;
use crate::frontend::{Session, Want};
use crate::ledger::Owed;
use crate::message::{Message, Step};
use crate::server::Server;
use crate::statement::{GUARD, RESERVED_PREFIX, Statement};

/// A digest of names, types and type modifiers of the columns (`equalTupleDescs` in
/// `src/backend/access/common/tupdesc.c`); of no columns for a statement that returns none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Shape(u64);

impl Shape {
    /// Of the body of a RowDescription, or of nothing for NoData. `None` if it cannot be read.
    pub(crate) fn read(row_description: Option<&[u8]>) -> Option<Self> {
        let mut digest = DefaultHasher::new();
        if let Some(body) = row_description {
            for column in RowDescription::new(body).columns().ok()? {
                (column.name, column.type_oid, column.type_modifier).hash(&mut digest);
            }
        }
        Some(Self(digest.finish()))
    }
}

/// The error, as PostgreSQL has it: drivers know it by the name of the routine, and prepare again.
pub(crate) fn write_changed(out: &mut Vec<u8>) {
    let fields: [(u8, &str); 6] = [
        (field::SEVERITY, "ERROR"),
        (field::SEVERITY_PLAIN, "ERROR"),
        (field::CODE, sqlstate::FEATURE_NOT_SUPPORTED),
        (field::MESSAGE, "cached plan must not change result type"),
        (field::FILE, "plancache.c"),
        (field::ROUTINE, "RevalidateCachedQuery"),
    ];
    BackendWriter(out).error_fields(fields.map(|(code, value)| (code, value.as_bytes())));
}

impl Session {
    /// Has the server the statement, in the shape that its clients know? `Some`: not yet, or not any more.
    pub(crate) fn ensure_shape(
        &mut self,
        statement: &Arc<Statement>,
        message: Message<'_>,
        server: &mut Server,
        ctx: &mut Ctx<'_>,
    ) -> Option<Step> {
        if server.checking {
            return Some(Step::Blocked(Want::Server));
        }
        if server.changed.take() == Some(statement.id()) {
            // The error is for PostgreSQL to raise, with all that follows from one; what it says is replaced.
            ctx.plan.insert(|out| {
                FrontendWriter(out).describe_statement(format!("{GUARD}{RESERVED_PREFIX}").as_bytes());
            });
            server.owe(Owed::Changed);
            return Some(self.discard(message));
        }
        if server.prepared.touch(statement.id()) || statement.shape().is_none() {
            return None;
        }
        server.ensure_prepared(statement, self.max_prepared, ctx);
        ctx.plan.insert(|out| {
            FrontendWriter(out).describe_statement(statement.server_name().as_bytes());
            FrontendWriter(out).bare(frontend::FLUSH);
        });
        server.owe(Owed::HiddenDescribe(statement.clone()));
        server.checking = true;
        Some(Step::Blocked(Want::Server))
    }
}

impl Server {
    /// A statement was described, with this RowDescription or with NoData.
    pub(crate) fn note_shape(&mut self, row_description: Option<&[u8]>, ctx: &mut Ctx<'_>) {
        let (statement, ours) = match self.ledger.front() {
            Some(Owed::DescribeStatement(Some(named))) => (named.statement.clone(), false),
            Some(Owed::DescribePortal(Some(statement))) => (statement.clone(), false),
            Some(Owed::HiddenDescribe(statement)) => (statement.clone(), true),
            _ => return,
        };
        self.checking &= !ours;
        // PostgreSQL lets one return what its cursor has by now, however it was described.
        if statement.fetches() {
            return;
        }
        let Some(shape) = Shape::read(row_description) else { return };
        if *statement.shape_or(shape) != shape && ours {
            self.prepared.spoil(statement.id());
            ctx.registry.retire(&statement);
            self.changed = Some(statement.id());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use pgsluice_wire::{Column, HEAD_LEN};

    #[test]
    fn names_and_types_are_the_shape_and_nothing_else() {
        let of = |columns: &[(&str, u32)]| {
            let column =
                |(name, type_oid): &(&str, u32)| Column { name: (*name).into(), type_oid: *type_oid, type_len: 4 };
            let mut message = Vec::new();
            let columns: Vec<_> = columns.iter().map(column).collect();
            BackendWriter(&mut message).row_description(&columns, |_| false);
            Shape::read(Some(&message[HEAD_LEN..])).unwrap()
        };
        assert_eq!(of(&[("a", 23)]), of(&[("a", 23)]));
        for other in [of(&[("b", 23)]), of(&[("a", 25)]), of(&[("a", 23), ("b", 23)]), of(&[])] {
            assert_ne!(of(&[("a", 23)]), other);
        }
        assert_eq!(Shape::read(Some(b"\0\x01x")), None);
        assert_ne!(Shape::read(None), Some(of(&[("a", 23)])));
    }
}
