//! One message of a client's, as far as it has come, and what became of it.

use std::ops::Range;

use pgsluice_wire::{BadLength, HEAD_LEN, Head, tag::frontend};

use crate::error::Violation;
use crate::frontend::Want;

/// Longest pair of names in a Bind, in bytes.
pub(crate) const NAMES_MAX: usize = 16 << 10;
/// Length field of a message that holds a name at most, as PostgreSQL has it (`PQ_SMALL_MESSAGE_LIMIT` in `libpq.h`).
const SHORT_MESSAGE_LEN_MAX: u32 = 10_000;
/// Front of a Query or Parse that is waited for before any of it is passed on, in bytes: longer than a DEALLOCATE.
const FRONT_MAX: usize = 256;

/// What became of a message.
pub(crate) enum Step {
    /// The message, as far as it has come, is done with.
    Taken,
    /// Not yet, and why.
    Blocked(Want),
}

/// A message at the front of what is left of the input, as far as it has come.
#[derive(Clone, Copy)]
pub(crate) struct Message<'a> {
    pub(crate) head: Head,
    pub(crate) at: usize,
    pub(crate) end: usize,
    pub(crate) input: &'a [u8],
}

impl<'a> Message<'a> {
    pub(crate) fn span(&self) -> Range<usize> {
        self.at..self.end
    }

    pub(crate) fn body(&self) -> &'a [u8] {
        &self.input[self.at + HEAD_LEN..self.end]
    }

    pub(crate) fn missing(&self) -> usize {
        self.at + self.head.total() - self.end
    }

    /// Is too little of it here to tell what it is about?
    pub(crate) fn is_hardly_begun(&self) -> bool {
        self.missing() > 0 && self.body().len() < FRONT_MAX
    }

    /// Is it whole, and its last byte not the end of a string?
    pub(crate) fn is_unterminated(&self) -> bool {
        self.missing() == 0 && self.body().last() != Some(&0)
    }

    /// The body, whole; `None` while it is not.
    pub(crate) fn whole(&self, max: usize, message: &'static str) -> Result<Option<&'a [u8]>, Violation> {
        match self.missing() {
            _ if self.head.total() > max => Err(Violation::TooLong { message, max }),
            0 => Ok(Some(self.body())),
            _ => Ok(None),
        }
    }

    /// The names at the front of the body are not whole yet.
    pub(crate) fn more_names(&self, message: &'static str) -> Result<Step, Violation> {
        if self.body().len() > NAMES_MAX {
            return Err(Violation::TooLong { message, max: NAMES_MAX });
        }
        Ok(Step::Blocked(Want::More))
    }

    /// The type, if it is one, and the message is not longer than PostgreSQL takes it (`SocketBackend`).
    pub(crate) fn known_tag(&self) -> Result<u8, Violation> {
        let Head { tag, body_len } = self.head;
        let short = b"CDEHScf".contains(&tag);
        if short && body_len + 4 > SHORT_MESSAGE_LEN_MAX {
            return Err(Violation::Length(BadLength { tag, len: body_len + 4 }));
        }
        match tag {
            frontend::BIND
            | frontend::CLOSE
            | frontend::COPY_DATA
            | frontend::COPY_DONE
            | frontend::COPY_FAIL
            | frontend::DESCRIBE
            | frontend::EXECUTE
            | frontend::FLUSH
            | frontend::FUNCTION_CALL
            | frontend::PARSE
            | frontend::QUERY
            | frontend::SYNC => Ok(tag),
            other => Err(Violation::UnknownFrontend(other)),
        }
    }
}
