//! Which replies are due by now: the least of PostgreSQL's message loop that a patient client has to know. It is asked
//! in the direct run only; what came there by a certain step has to come through the pooler by that step, too.
//!
//! Source: `PostgresMain` in `src/backend/tcop/postgres.c`, `CopyGetData` in `src/backend/commands/copyfromparse.c`.

use std::collections::VecDeque;

use crate::wire::Reply;

/// The type byte of a message that was sent and not yet answered.
#[derive(Clone, Copy, Debug)]
struct Sent(u8);

impl Sent {
    fn answers_at_once(self) -> bool {
        matches!(self.0, b'Q' | b'F' | b'S')
    }

    fn goes_on(self) -> bool {
        b"QPBEDCHSFdcf".contains(&self.0)
    }

    fn is_copy(self) -> bool {
        matches!(self.0, b'd' | b'c' | b'f')
    }
}

/// What one connection has asked for and been told.
#[derive(Debug, Default)]
pub(super) struct Model {
    queue: VecDeque<Sent>,
    /// After an error in the extended protocol: all up to Sync is skipped.
    skipping: bool,
    /// The front is a COPY FROM STDIN that reads what comes.
    copying: bool,
    /// The end of the connection is certain.
    dying: bool,
    /// Messages that only Sync ends were sent.
    open: bool,
    /// Part of a message was sent.
    torn: bool,
    in_transaction: bool,
}

impl Model {
    /// Bytes were sent: whole messages, or a torn one at the end, which PostgreSQL goes on waiting for.
    pub(super) fn sent(&mut self, mut bytes: &[u8]) {
        while let [tag, a, b, c, d, ..] = *bytes {
            let length = u32::from_be_bytes([a, b, c, d]) as usize;
            self.queue.push_back(Sent(tag));
            self.open |= !matches!(tag, b'Q' | b'F' | b'd' | b'c' | b'f');
            if !Sent(tag).goes_on() || length < 4 {
                self.dying = true;
                return;
            }
            if bytes.len() < 1 + length {
                self.queue.pop_back();
                self.torn = true;
                return;
            }
            bytes = &bytes[1 + length..];
        }
        self.torn |= !bytes.is_empty();
    }

    /// Is a reply, or the end, certain to come without anything more being sent?
    pub(super) fn is_due(&mut self) -> bool {
        self.settle();
        if self.dying {
            return true;
        }
        match self.queue.len() {
            0 => false,
            _ if self.copying => self.queue.iter().skip(1).any(|sent| !matches!(sent.0, b'H' | b'S')),
            _ => self.queue.iter().any(|sent| sent.answers_at_once() || sent.0 == b'H'),
        }
    }

    /// Could a reply come nevertheless? An error does not wait for Flush.
    pub(super) fn is_possible(&self) -> bool {
        !self.queue.is_empty()
    }

    /// May the session hold a server?
    pub(super) fn may_hold(&self) -> bool {
        self.open || self.torn || self.copying || self.in_transaction || !self.queue.is_empty()
    }

    /// A reply came.
    pub(super) fn came(&mut self, reply: &Reply) {
        self.settle();
        match reply.tag {
            b'E' if matches!(reply.field(b'V').as_str(), "FATAL" | "PANIC") => self.dying = true,
            b'E' => self.error(reply),
            b'Z' => {
                self.in_transaction = reply.body != b"I";
                self.copying = false;
                self.queue.pop_front();
                self.open = self.queue.iter().any(|sent| !matches!(sent.0, b'Q' | b'F'));
            }
            b'G' => self.copying = true,
            b'1' | b'2' | b'3' | b'n' | b's' | b'I' | b'C' | b'T' => self.done(reply.tag),
            _ => {}
        }
    }

    fn error(&mut self, reply: &Reply) {
        if self.copying && reply.field(b'M').starts_with("unexpected message type") {
            self.dying = true;
        }
        self.copying = false;
        if !self.queue.front().is_some_and(|sent| sent.answers_at_once()) {
            self.queue.pop_front();
            self.skipping = true;
        }
    }

    fn done(&mut self, tag: u8) {
        let ends = match self.queue.front().map(|sent| sent.0) {
            Some(b'Q' | b'F' | b'S') | None => false,
            Some(b'D') => matches!(tag, b'T' | b'n'),
            Some(_) => tag != b'T',
        };
        if ends {
            self.queue.pop_front();
        }
    }

    /// Drops what gets no answer.
    fn settle(&mut self) {
        if self.copying {
            self.settle_copy();
        }
        while !self.copying
            && let Some(&front) = self.queue.front()
        {
            if self.skipping && front.0 == b'S' {
                self.skipping = false;
            }
            if !self.skipping && !front.is_copy() && front.0 != b'H' {
                return;
            }
            self.queue.pop_front();
        }
    }

    /// Behind the front is what the COPY reads. A Sync behind the last data stays: that data may have made it fail.
    fn settle_copy(&mut self) {
        let is_idle = |sent: &Sent| matches!(sent.0, b'H' | b'S');
        while self.copying
            && let Some(at) = self.queue.iter().skip(1).position(|sent| !is_idle(sent)).map(|n| n + 1)
            && self.queue[at].is_copy()
        {
            // A failure is told at once, and only what Flush or Sync follow is told of success.
            self.copying = self.queue[at].0 == b'd';
            self.queue.drain(1..=at);
        }
    }
}
