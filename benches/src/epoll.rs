//! One epoll instance with a reusable buffer of events: the readiness loop of `fakepg` and the load generator. It
//! is edge-triggered for connections and level-triggered for listeners, and knows nothing of what it watches.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use rustix::event::Timespec;
use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};
use rustix::io::Errno;

/// Readiness of one watched descriptor.
#[derive(Clone, Copy, Debug)]
pub struct Ready {
    /// The number given when the descriptor was added.
    pub key: u64,
    /// There are bytes to read, or the peer has closed.
    pub readable: bool,
    /// There is room to write.
    pub writable: bool,
}

/// An epoll instance, epoll(7). Not `Send`: each thread makes its own.
pub struct Epoll {
    fd: OwnedFd,
    events: Vec<epoll::Event>,
}

impl Epoll {
    /// Makes an instance that reports up to `capacity` descriptors at a time.
    ///
    /// # Errors
    /// Those of epoll_create1(2).
    pub fn new(capacity: usize) -> io::Result<Self> {
        Ok(Self { fd: epoll::create(CreateFlags::CLOEXEC)?, events: Vec::with_capacity(capacity) })
    }

    /// Watches a connection for both directions, edge-triggered.
    ///
    /// # Errors
    /// Those of epoll_ctl(2).
    pub fn add_connection(&self, source: impl AsFd, key: u64) -> io::Result<()> {
        self.add(source, key, EventFlags::IN | EventFlags::OUT | EventFlags::RDHUP | EventFlags::ET)
    }

    /// Watches a connection for input only, edge-triggered.
    ///
    /// # Errors
    /// Those of epoll_ctl(2).
    pub fn add_reader(&self, source: impl AsFd, key: u64) -> io::Result<()> {
        self.add(source, key, EventFlags::IN | EventFlags::RDHUP | EventFlags::ET)
    }

    /// Watches a listener, level-triggered.
    ///
    /// # Errors
    /// Those of epoll_ctl(2).
    pub fn add_listener(&self, source: impl AsFd, key: u64) -> io::Result<()> {
        self.add(source, key, EventFlags::IN)
    }

    fn add(&self, source: impl AsFd, key: u64, flags: EventFlags) -> io::Result<()> {
        Ok(epoll::add(&self.fd, source, EventData::new_u64(key), flags)?)
    }

    /// Waits for readiness, for ever without a timeout. An interrupted wait reports nothing.
    ///
    /// # Errors
    /// Those of epoll_wait(2), but for EINTR.
    pub fn wait(&mut self, timeout: Option<Duration>) -> io::Result<()> {
        let timeout = timeout.map(|d| Timespec { tv_sec: d.as_secs() as i64, tv_nsec: i64::from(d.subsec_nanos()) });
        self.events.clear();
        match epoll::wait(&self.fd, rustix::buffer::spare_capacity(&mut self.events), timeout.as_ref()) {
            Ok(_) | Err(Errno::INTR) => Ok(()),
            Err(e) => Err(e.into()),
        }
    }

    /// How many descriptors the last wait reported.
    pub fn len(&self) -> usize {
        self.events.len()
    }

    /// Whether the last wait reported nothing.
    pub fn is_empty(&self) -> bool {
        self.events.is_empty()
    }

    /// The `i`-th descriptor that the last wait reported. By index, so that the caller may change its own state
    /// meanwhile.
    pub fn ready(&self, i: usize) -> Ready {
        let event = self.events[i];
        let flags = event.flags;
        Ready {
            key: event.data.u64(),
            readable: flags.intersects(EventFlags::IN | EventFlags::RDHUP | EventFlags::HUP | EventFlags::ERR),
            writable: flags.contains(EventFlags::OUT),
        }
    }
}
