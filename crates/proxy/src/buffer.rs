//! What a socket would not take yet, or what came in part only. Empty buffers hold no memory.

use std::io::{self, IoSlice};
use std::task::{Context, Poll};

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

    /// Writes until empty.
    pub(crate) fn poll_flush(&mut self, stream: &mut Stream, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.is_empty() {
            match stream.poll_write_vectored(cx, &[IoSlice::new(self.as_slice())]) {
                Poll::Ready(Ok(0)) => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                Poll::Ready(Ok(n)) => self.consume(n),
                Poll::Ready(Err(e)) => return Poll::Ready(Err(e)),
                Poll::Pending => return Poll::Pending,
            }
        }
        Poll::Ready(Ok(()))
    }

    /// Sends `slices` behind what waits already: at once as far as the socket takes it, the rest is kept.
    pub(crate) fn send<'a>(
        &mut self,
        slices: impl Iterator<Item = &'a [u8]>,
        stream: &mut Stream,
        cx: &mut Context<'_>,
    ) -> io::Result<()> {
        let mut slices = slices.peekable();
        if !self.is_empty() {
            slices.for_each(|s| self.push(s));
            return Ok(());
        }
        while slices.peek().is_some() {
            let mut batch: [&[u8]; SLICES_MAX] = [&[]; SLICES_MAX];
            let mut count = 0;
            for (place, slice) in batch.iter_mut().zip(slices.by_ref()) {
                *place = slice;
                count += 1;
            }
            if !self.send_batch(&mut batch[..count], stream, cx)? {
                slices.for_each(|s| self.push(s));
                return Ok(());
            }
        }
        Ok(())
    }

    /// Writes a batch; what is left of it is kept. Did all of it go out?
    fn send_batch(&mut self, batch: &mut [&[u8]], stream: &mut Stream, cx: &mut Context<'_>) -> io::Result<bool> {
        let mut vectors = [IoSlice::new(&[]); SLICES_MAX];
        for (vector, slice) in vectors.iter_mut().zip(batch.iter()) {
            *vector = IoSlice::new(slice);
        }
        let total: usize = batch.iter().map(|s| s.len()).sum();
        let written = match stream.poll_write_vectored(cx, &vectors[..batch.len()]) {
            Poll::Ready(Ok(n)) => n,
            Poll::Ready(Err(e)) => return Err(e),
            Poll::Pending => 0,
        };
        let mut skip = written;
        for slice in batch.iter() {
            let part = skip.min(slice.len());
            self.push(&slice[part..]);
            skip -= part;
        }
        Ok(written == total)
    }
}
