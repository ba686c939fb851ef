//! One epoll instance with a reusable buffer of events: the readiness loop of `fakepg` and the load generator. It
//! is edge-triggered for connections and level-triggered for listeners, and knows nothing of what it watches.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use rustix::event::Timespec;
use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};
use rustix::io::Errno;
use rustix::time::{Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, timerfd_create, timerfd_settime};

/// The timer's key, which no descriptor of a caller's may have.
const TIMER: u64 = u64::MAX - 1;

const MILLISECOND: Duration = Duration::from_millis(1);

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
    /// For waits shorter than the millisecond that epoll_wait(2) counts in.
    timer: OwnedFd,
    events: Vec<epoll::Event>,
}

impl Epoll {
    /// Makes an instance that reports up to `capacity` descriptors at a time.
    ///
    /// # Errors
    /// Those of epoll_create1(2) and timerfd_create(2).
    pub fn new(capacity: usize) -> io::Result<Self> {
        let fd = epoll::create(CreateFlags::CLOEXEC)?;
        let timer = timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK)?;
        // Edge-triggered, so that nobody need read it.
        epoll::add(&fd, &timer, EventData::new_u64(TIMER), EventFlags::IN | EventFlags::ET)?;
        Ok(Self { fd, timer, events: Vec::with_capacity(capacity) })
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

    /// Waits for readiness, for ever without a timeout. A wait may end early and report nothing: when it is interrupted,
    /// or with less than a millisecond of it left.
    ///
    /// # Errors
    /// Those of epoll_wait(2), but for EINTR, and of timerfd_settime(2).
    pub fn wait(&mut self, timeout: Option<Duration>) -> io::Result<()> {
        let timeout = match timeout {
            Some(short) if !short.is_zero() && short < MILLISECOND => {
                self.set_timer(short)?;
                None
            }
            // It would be rounded up.
            other => other.map(|d| timespec(Duration::from_millis(d.as_millis() as u64))),
        };
        self.events.clear();
        match epoll::wait(&self.fd, rustix::buffer::spare_capacity(&mut self.events), timeout.as_ref()) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(e) => return Err(e.into()),
        }
        if let Some(at) = self.events.iter().position(|event| { event.data }.u64() == TIMER) {
            self.events.remove(at);
        }
        Ok(())
    }

    fn set_timer(&self, after: Duration) -> io::Result<()> {
        let once = Itimerspec { it_interval: timespec(Duration::ZERO), it_value: timespec(after) };
        timerfd_settime(&self.timer, TimerfdTimerFlags::empty(), &once)?;
        Ok(())
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

fn timespec(d: Duration) -> Timespec {
    Timespec { tv_sec: d.as_secs() as i64, tv_nsec: i64::from(d.subsec_nanos()) }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::os::unix::net::UnixStream;
    use std::time::Instant;

    use super::*;

    #[test]
    fn short_waits_are_no_longer_than_they_should_be() {
        let mut epoll = Epoll::new(8).unwrap();
        let waited = (0..20).map(|_| {
            let started = Instant::now();
            epoll.wait(Some(Duration::from_micros(100))).unwrap();
            assert!(epoll.is_empty(), "the timer is nobody's descriptor");
            started.elapsed()
        });
        // One of many is enough: the machine may be busy.
        let shortest = waited.min().unwrap();
        assert!((Duration::from_micros(90)..Duration::from_micros(900)).contains(&shortest), "{shortest:?}");
    }

    #[test]
    fn a_timer_that_is_late_hides_no_readiness() {
        let mut epoll = Epoll::new(8).unwrap();
        let (mut writer, reader) = UnixStream::pair().unwrap();
        epoll.add_reader(&reader, 7).unwrap();
        writer.write_all(b"x").unwrap();
        epoll.wait(Some(Duration::from_micros(200))).unwrap();
        assert_eq!((epoll.len(), epoll.ready(0).key), (1, 7));
        std::thread::sleep(Duration::from_millis(2));
        epoll.wait(Some(Duration::ZERO)).unwrap();
        assert!(epoll.is_empty());
    }
}
