//! What a client sends until it is let in: it may be a password, and no copy of it is left in memory.

use std::io;

use zeroize::{Zeroize, Zeroizing};

use crate::net::Stream;

/// Bytes read from a client at once before it is logged in.
pub(crate) const READ_LEN: usize = 1 << 10;

/// Waits for more, and appends it; 0 bytes is the end.
pub(crate) async fn read_into(stream: &Stream, inbox: &mut Zeroizing<Vec<u8>>) -> io::Result<usize> {
    loop {
        make_room(inbox);
        match stream.try_append(inbox, READ_LEN) {
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                if inbox.is_empty() {
                    // Many may wait like this.
                    *inbox = Zeroizing::default();
                }
                stream.readable().await?;
            }
            other => return other,
        }
    }
}

/// Takes what was read off the front. It may be a password, and so nothing of it stays behind the end.
pub(crate) fn forget(inbox: &mut Vec<u8>, taken: usize) {
    inbox.copy_within(taken.., 0);
    let kept = inbox.len() - taken;
    inbox[kept..].zeroize();
    inbox.truncate(kept);
}

/// Room for one more reading: a `Vec` that grows of itself leaves a copy behind, of half a password perhaps.
pub(crate) fn make_room(inbox: &mut Zeroizing<Vec<u8>>) {
    if inbox.capacity() - inbox.len() < READ_LEN {
        let mut larger = Vec::with_capacity((inbox.len() + READ_LEN).max(2 * inbox.capacity()));
        larger.extend_from_slice(inbox);
        *inbox = Zeroizing::new(larger);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_taken_of_an_inbox_is_gone_and_the_rest_is_not() {
        for taken in 0..=6 {
            let mut inbox = b"secret".to_vec();
            forget(&mut inbox, taken);
            assert_eq!(inbox, &b"secret"[taken..]);
        }
    }

    #[test]
    fn an_inbox_has_room_for_what_is_read_at_once() {
        let mut inbox = Zeroizing::new(b"half a pass".to_vec());
        for _ in 0..5 {
            make_room(&mut inbox);
            let before = inbox.as_ptr();
            let full = inbox.len() + READ_LEN;
            inbox.resize(full, b'x');
            assert_eq!(inbox.as_ptr(), before, "it has not moved");
            assert!(inbox.starts_with(b"half a passxx"));
        }
    }
}
