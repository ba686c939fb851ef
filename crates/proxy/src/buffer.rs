//! What a socket would not take yet, or what came in part only. Empty buffers hold no memory.

use std::io::{self, IoSlice};

use crate::net::Stream;

/// Slices given to one vectored write.
const SLICES_MAX: usize = 16;
/// Capacity an empty buffer may keep, in bytes.
const KEEP_MAX: usize = 0;

/// Bytes in order, taken from the front.
#[derive(Debug, Default)]
pub(crate) struct Buffer {
    bytes: Vec<u8>,
    at: usize,
}

impl Buffer {
    pub(crate) fn is_empty(&self) -> bool {
        self.at == self.bytes.len()
    }

    pub(crate) fn len(&self) -> usize {
        self.bytes.len() - self.at
    }

    pub(crate) fn as_slice(&self) -> &[u8] {
        &self.bytes[self.at..]
    }

    pub(crate) fn push(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    /// The end of the buffer, to be appended to.
    pub(crate) fn tail(&mut self) -> &mut Vec<u8> {
        &mut self.bytes
    }

    pub(crate) fn consume(&mut self, n: usize) {
        self.at += n;
        if self.is_empty() {
            self.at = 0;
            self.bytes.clear();
            if self.bytes.capacity() > KEEP_MAX {
                self.bytes = Vec::new();
            }
        } else if self.at > self.bytes.len() / 2 {
            self.bytes.drain(..self.at);
            self.at = 0;
        }
    }

    pub(crate) fn take(&mut self) -> Self {
        std::mem::take(self)
    }

    /// Writes as much as is taken. Is it empty now?
    ///
    /// # Errors
    /// The connection's.
    #[inline]
    pub(crate) fn flush(&mut self, stream: &Stream) -> io::Result<bool> {
        if self.is_empty() { Ok(true) } else { self.flush_some(stream) }
    }

    fn flush_some(&mut self, stream: &Stream) -> io::Result<bool> {
        while !self.is_empty() {
            match stream.try_write(self.as_slice()) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(n) => self.consume(n),
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(false),
                Err(e) => return Err(e),
            }
        }
        Ok(true)
    }

    /// Sends `slices` behind what waits already: at once as far as the socket takes it, the rest is kept.
    ///
    /// # Errors
    /// The connection's.
    pub(crate) fn send<'a>(&mut self, slices: impl Iterator<Item = &'a [u8]>, stream: &Stream) -> io::Result<()> {
        let mut slices = slices;
        if !self.is_empty() {
            slices.for_each(|s| self.push(s));
            return Ok(());
        }
        let Some(first) = slices.next() else { return Ok(()) };
        let Some(second) = slices.next() else {
            let batch = [IoSlice::new(first)];
            let written = written(stream.try_write_vectored(&batch))?;
            if written < first.len() {
                self.keep(&batch, written);
            }
            return Ok(());
        };
        self.send_many([first, second].into_iter().chain(slices), stream)
    }

    fn send_many<'a>(&mut self, mut slices: impl Iterator<Item = &'a [u8]>, stream: &Stream) -> io::Result<()> {
        loop {
            let mut batch = [IoSlice::new(&[]); SLICES_MAX];
            let (mut count, mut total) = (0, 0);
            for (place, slice) in batch.iter_mut().zip(slices.by_ref()) {
                *place = IoSlice::new(slice);
                count += 1;
                total += slice.len();
            }
            let batch = &batch[..count];
            if count == 0 {
                return Ok(());
            }
            let written = written(stream.try_write_vectored(batch))?;
            if written < total {
                self.keep(batch, written);
                slices.for_each(|s| self.push(s));
                return Ok(());
            }
            if count < SLICES_MAX {
                return Ok(());
            }
        }
    }

    /// Keeps what is left of a batch of which `written` bytes went out.
    #[cold]
    fn keep(&mut self, batch: &[IoSlice<'_>], written: usize) {
        let mut skip = written;
        for slice in batch {
            let part = skip.min(slice.len());
            self.push(&slice[part..]);
            skip -= part;
        }
    }
}

/// How much of it, if the socket takes nothing now: none.
fn written(result: io::Result<usize>) -> io::Result<usize> {
    match result {
        Err(e) if e.kind() == io::ErrorKind::WouldBlock => Ok(0),
        other => other,
    }
}
