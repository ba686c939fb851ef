//! The least that a pooler could do: what nothing in user space can be cheaper than, to compare with. One thread, one epoll, one
//! buffer. It lets everybody in, takes each message of a client for a query, and gives its server to the next when it sees
//! ReadyForQuery. No errors are told, no state is followed, nobody is watched, and a large message ends it: not for use.

use std::collections::VecDeque;
use std::io::{self, Read, Write};

use clap::Parser;
use pgsluice_benches::epoll::Epoll;
use pgsluice_benches::login::{Credentials, log_in};
use pgsluice_benches::net::{Addr, Listener, Stream};
use pgsluice_benches::proto::{self, Startup};
use pgsluice_benches::usage;

const BUFFER_LEN: usize = 64 << 10;
const EVENTS_MAX: usize = 1024;
const LISTENER: u64 = u64::MAX;
/// A head: tag and length.
const HEAD_LEN: usize = 5;

/// A pooler that does nothing but pass on.
#[derive(Parser)]
struct Options {
    /// Where clients connect: ADDRESS:PORT or unix:PATH.
    #[arg(long)]
    listen: Addr,
    /// The server: ADDRESS:PORT or unix:PATH.
    #[arg(long)]
    server: Addr,
    /// Connections to it.
    #[arg(long, default_value_t = 20)]
    servers: usize,
}

/// A client or a server.
struct Peer {
    stream: Stream,
    /// Whom it is linked with.
    other: Option<usize>,
    is_server: bool,
    /// The startup packet has been read.
    is_in: bool,
    scan: Scan,
}

/// How far a server's answer has been gone over.
#[derive(Default)]
struct Scan {
    /// Bytes that are left of the last message.
    left: usize,
    /// A head that came in part.
    head: Vec<u8>,
    /// The last message's tag.
    tag: u8,
}

struct Pool {
    epoll: Epoll,
    peers: Vec<Option<Peer>>,
    free: Vec<usize>,
    /// Servers without a client, the one used last at the end.
    idle: Vec<usize>,
    /// Clients without a server. What they ask is still in their sockets.
    waiting: VecDeque<usize>,
    buffer: Vec<u8>,
}

fn main() -> io::Result<()> {
    let options = Options::parse();
    usage::raise_open_files(65_536);
    let listener = Listener::bind(&options.listen)?;
    let mut pool = Pool {
        epoll: Epoll::new(EVENTS_MAX)?,
        peers: Vec::new(),
        free: Vec::new(),
        idle: Vec::new(),
        waiting: VecDeque::new(),
        buffer: vec![0; BUFFER_LEN],
    };
    pool.epoll.add_listener(&listener, LISTENER)?;
    let who = Credentials { user: "bench".into(), database: "bench".into(), password: String::new() };
    for _ in 0..options.servers {
        let stream = Stream::connect(&options.server)?;
        log_in(&stream, &who, &[])?;
        stream.set_nonblocking()?;
        let server = pool.add(stream, true)?;
        pool.idle.push(server);
    }
    loop {
        pool.epoll.wait(None)?;
        for i in 0..pool.epoll.len() {
            let ready = pool.epoll.ready(i);
            if ready.key == LISTENER {
                while let Some(stream) = listener.accept()? {
                    pool.add(stream, false)?;
                }
            } else {
                pool.serve(ready.key as usize)?;
            }
        }
    }
}

impl Pool {
    fn add(&mut self, stream: Stream, is_server: bool) -> io::Result<usize> {
        let index = self.free.pop().unwrap_or_else(|| {
            self.peers.push(None);
            self.peers.len() - 1
        });
        self.epoll.add_reader(&stream, index as u64)?;
        self.peers[index] = Some(Peer { stream, other: None, is_server, is_in: is_server, scan: Scan::default() });
        Ok(index)
    }

    fn serve(&mut self, index: usize) -> io::Result<()> {
        let Some(peer) = &self.peers[index] else { return Ok(()) };
        match (peer.is_server, peer.other) {
            (true, _) => self.answer(index),
            (false, Some(_)) => self.ask(index),
            (false, None) if !peer.is_in => self.let_in(index),
            (false, None) => match self.idle.pop() {
                Some(server) => self.link(index, server),
                None => {
                    self.waiting.push_back(index);
                    Ok(())
                }
            },
        }
    }

    fn let_in(&mut self, index: usize) -> io::Result<()> {
        let Some(peer) = &mut self.peers[index] else { return Ok(()) };
        let n = match (&peer.stream).read(&mut self.buffer) {
            Ok(0) => return self.drop_peer(index),
            Ok(n) => n,
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(()),
            Err(_) => return self.drop_peer(index),
        };
        match proto::startup_step(&self.buffer[..n]) {
            Startup::Start(_) => {
                peer.is_in = true;
                let _ = (&peer.stream).write_all(&proto::startup_reply(index as u32, 1, "floor"));
                Ok(())
            }
            _ => self.drop_peer(index),
        }
    }

    fn link(&mut self, client: usize, server: usize) -> io::Result<()> {
        if let Some(peer) = &mut self.peers[client] {
            peer.other = Some(server);
        }
        if let Some(peer) = &mut self.peers[server] {
            peer.other = Some(client);
        }
        self.ask(client)
    }

    /// What a client says goes to its server.
    fn ask(&mut self, client: usize) -> io::Result<()> {
        let Some(Peer { stream, other: Some(server), .. }) = &self.peers[client] else { return Ok(()) };
        let server = *server;
        match { stream }.read(&mut self.buffer) {
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => Ok(()),
            Ok(n @ 1..) if self.buffer[0] != b'X' => {
                let Some(peer) = &self.peers[server] else { return Ok(()) };
                (&peer.stream).write_all(&self.buffer[..n])
            }
            _ => {
                self.drop_peer(client)?;
                self.release(server)
            }
        }
    }

    /// What a server says goes to its client, and the server to the next.
    fn answer(&mut self, server: usize) -> io::Result<()> {
        let Some(peer) = &mut self.peers[server] else { return Ok(()) };
        let n = match (&peer.stream).read(&mut self.buffer) {
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(()),
            Ok(n @ 1..) => n,
            Ok(0) | Err(_) => return Err(io::Error::other("the server is gone")),
        };
        let done = peer.scan.pass(&self.buffer[..n]);
        let client = peer.other;
        if let Some(Some(client)) = client.map(|client| &self.peers[client]) {
            // Whether it is still there to hear it does not matter: its end comes next.
            let _ = (&client.stream).write_all(&self.buffer[..n]);
        }
        if let (true, Some(client)) = (done, client) {
            if let Some(client) = &mut self.peers[client] {
                client.other = None;
            }
            return self.release(server);
        }
        Ok(())
    }

    fn release(&mut self, server: usize) -> io::Result<()> {
        if let Some(peer) = &mut self.peers[server] {
            peer.other = None;
        }
        match self.waiting.pop_front() {
            Some(client) if self.peers[client].is_some() => self.link(client, server),
            Some(_) => self.release(server),
            None => {
                self.idle.push(server);
                Ok(())
            }
        }
    }

    fn drop_peer(&mut self, index: usize) -> io::Result<()> {
        self.peers[index] = None;
        self.free.push(index);
        Ok(())
    }
}

impl Scan {
    /// Goes over more of it. Is the last message a whole ReadyForQuery?
    fn pass(&mut self, bytes: &[u8]) -> bool {
        let mut at = self.left.min(bytes.len());
        self.left -= at;
        while at < bytes.len() {
            let length = match bytes[at..] {
                [tag, a, b, c, d, ..] if self.head.is_empty() => {
                    at += HEAD_LEN;
                    self.tag = tag;
                    u32::from_be_bytes([a, b, c, d])
                }
                _ => {
                    let missing = (HEAD_LEN - self.head.len()).min(bytes.len() - at);
                    self.head.extend(&bytes[at..at + missing]);
                    at += missing;
                    let Some(length) = proto::be32(&self.head, 1) else { return false };
                    self.tag = self.head[0];
                    self.head.clear();
                    length
                }
            };
            let body = (length as usize).saturating_sub(4);
            let here = body.min(bytes.len() - at);
            (at, self.left) = (at + here, body - here);
        }
        self.tag == b'Z' && self.left == 0 && self.head.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_ends_with_ready_for_query_however_it_is_cut() {
        let mut answer = Vec::new();
        proto::put_message(&mut answer, b'D', b"Z\0\0\0\x05I");
        proto::put_message(&mut answer, b'C', b"SELECT 1\0");
        proto::put_message(&mut answer, b'Z', b"I");
        for cut in 0..=answer.len() {
            let mut scan = Scan::default();
            let first = scan.pass(&answer[..cut]);
            assert_eq!(first, cut == answer.len(), "{cut}");
            if !first {
                assert!(scan.pass(&answer[cut..]), "{cut}");
            }
        }
    }
}
