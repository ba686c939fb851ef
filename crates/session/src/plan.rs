//! What becomes of the bytes just read: an ordered list of pieces for the other side, each either a span of the input
//! or bytes of our own, and a reply for the side they came from.
//!
//! A plan owns none of the input. It is kept by the worker and reused, so a query allocates nothing here.

use std::ops::Range;

/// Bytes of our own after which a plan is to be carried out before it grows further.
const OWN_MAX: usize = 64 << 10;
/// Capacity that a plan keeps for each of its kinds of bytes, in bytes.
const KEEP_MAX: usize = 128 << 10;

#[derive(Clone, Debug, PartialEq, Eq)]
enum Piece {
    Input(Range<usize>),
    Own(Range<usize>),
}

/// Pieces to forward and a reply, see the module's documentation.
#[derive(Debug, Default)]
pub struct Plan {
    pieces: Vec<Piece>,
    own: Vec<u8>,
    /// Bytes of our own for the peer that sent the input.
    pub reply: Vec<u8>,
    /// The client asked for a Flush: what is answered so far is not to wait for what follows.
    pub flush_due: bool,
}

impl Plan {
    /// Forgets everything; capacity stays, as far as it is of use every day.
    pub fn clear(&mut self) {
        self.pieces.clear();
        for bytes in [&mut self.own, &mut self.reply] {
            bytes.clear();
            if bytes.capacity() > KEEP_MAX {
                bytes.shrink_to(KEEP_MAX);
            }
        }
        self.flush_due = false;
    }

    /// Is it to be carried out before more of the input is looked at? A short message can bring a long one of ours.
    pub(crate) fn is_full(&self) -> bool {
        self.own.len() >= OWN_MAX
    }

    /// Is there nothing to forward?
    pub fn is_empty(&self) -> bool {
        self.pieces.is_empty()
    }

    /// Forwards a span of the input; neighbours become one.
    #[inline]
    pub fn forward(&mut self, span: Range<usize>) {
        if span.is_empty() {
            return;
        }
        match self.pieces.last_mut() {
            Some(Piece::Input(last)) if last.end == span.start => last.end = span.end,
            _ => self.pieces.push(Piece::Input(span)),
        }
    }

    /// Puts bytes of our own behind what is there.
    pub fn insert(&mut self, write: impl FnOnce(&mut Vec<u8>)) {
        let start = self.own.len();
        write(&mut self.own);
        let end = self.own.len();
        match self.pieces.last_mut() {
            _ if start == end => {}
            Some(Piece::Own(last)) if last.end == start => last.end = end,
            _ => self.pieces.push(Piece::Own(start..end)),
        }
    }

    /// The pieces in order, as slices; `input` is what the plan was made from.
    pub fn slices<'a>(&'a self, input: &'a [u8]) -> impl Iterator<Item = &'a [u8]> + Clone {
        self.pieces.iter().map(move |piece| match piece {
            Piece::Input(span) => &input[span.clone()],
            Piece::Own(span) => &self.own[span.clone()],
        })
    }

    /// Everything to forward, as one copy; for tests and cold paths.
    pub fn concat(&self, input: &[u8]) -> Vec<u8> {
        self.slices(input).flatten().copied().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbours_become_one_piece_and_order_is_kept() {
        let mut plan = Plan::default();
        plan.forward(0..2);
        plan.forward(2..3);
        plan.insert(|out| out.extend(b"xy"));
        plan.insert(|out| out.extend(b"z"));
        plan.insert(|_| ());
        plan.forward(4..4);
        plan.forward(4..5);
        assert_eq!(plan.slices(b"abcde").collect::<Vec<_>>(), [&b"abc"[..], b"xyz", b"e"]);
        assert_eq!(plan.concat(b"abcde"), b"abcxyze");
        plan.clear();
        assert!(plan.is_empty());
    }
}
