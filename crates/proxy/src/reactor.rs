//! A worker's loop, below tokio: which sockets are ready, which task's turn it is, how long to wait.
//!
//! It knows what a worker needs and no more. A socket's readiness is two bits that the loop sets and a read or write that finds
//! nothing clears, so that waiting costs no system call and no registration; a socket wakes the one task it was handed to. A task
//! is a [`Task`], or a future for what is rare; tokio's channels work with it, and wake it from other threads. See
//! docs/decisions/own-loop.md for what it costs and what tokio's cost.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeSet, VecDeque};
use std::future::poll_fn;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Wake, Waker};
use std::time::{Duration, Instant};

use rustix::event::{EventfdFlags, Timespec, epoll, eventfd};
use slab::Slab;

/// Events taken from the kernel at once.
const EVENTS_MAX: usize = 256;
/// Turns of tasks between two looks for events.
const TURNS_MAX: usize = 256;

/// The event that says: another thread woke somebody.
const KNOCK: u64 = u64::MAX;

const READ: u8 = 1;
const WRITE: u8 = 2;
/// The other side says no more: a read that finds little does not mean that there is nothing left to learn.
const READ_CLOSED: u8 = 4;

thread_local! {
    static HERE: RefCell<Option<Rc<Reactor>>> = const { RefCell::new(None) };
    static CURRENT: Cell<TaskId> = const { Cell::new(TaskId::NOBODY) };
}

/// A task's name in its thread's loop. One that is over may have left its to another, which is then woken for nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct TaskId(u32);

impl TaskId {
    /// Who is not there.
    pub(crate) const NOBODY: Self = Self(u32::MAX);
}

/// What is woken when there may be something to do.
pub(crate) trait Task {
    /// Does what can be done now. Is it over?
    fn turn(&mut self) -> bool;
}

/// A future as a task.
struct Async {
    future: Pin<Box<dyn Future<Output = ()>>>,
    waker: Waker,
}

impl Task for Async {
    fn turn(&mut self) -> bool {
        self.future.as_mut().poll(&mut Context::from_waker(&self.waker)).is_ready()
    }
}

/// A task and whether it is in the queue.
struct Entry {
    /// None while it has its turn.
    task: Option<Box<dyn Task>>,
    is_queued: bool,
}

/// What is known of a socket.
#[derive(Debug)]
struct Source {
    ready: Cell<u8>,
    owner: Cell<TaskId>,
    /// Whether the kernel tells of room for writes: not before there was none.
    tells_room: Cell<bool>,
}

/// A socket's place in its thread's loop, left when this is dropped.
#[derive(Debug)]
pub(crate) struct Place {
    source: Rc<Source>,
    key: u32,
}

/// A thread's loop.
pub(crate) struct Reactor {
    epoll: OwnedFd,
    events: RefCell<Vec<epoll::Event>>,
    sources: RefCell<Slab<Rc<Source>>>,
    tasks: RefCell<Slab<Entry>>,
    queue: RefCell<VecDeque<TaskId>>,
    /// Those that have more to do, but let events come first.
    yielded: RefCell<Vec<TaskId>>,
    timers: RefCell<BTreeSet<(Instant, TaskId)>>,
    now: Cell<Instant>,
    rounds: Cell<u64>,
    door: Arc<Door>,
}

/// Where other threads knock.
struct Door {
    event: OwnedFd,
    woken: Mutex<Vec<TaskId>>,
    is_knocked: AtomicBool,
}

/// Wakes a task, from any thread.
struct Knock {
    door: Arc<Door>,
    id: TaskId,
}

impl Wake for Knock {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        let here = HERE.try_with(|here| match &*here.borrow() {
            Some(reactor) if Arc::ptr_eq(&reactor.door, &self.door) => {
                reactor.queue(self.id);
                true
            }
            _ => false,
        });
        if here != Ok(true) {
            self.door.woken.lock().unwrap_or_else(PoisonError::into_inner).push(self.id);
            if !self.door.is_knocked.swap(true, Ordering::AcqRel) {
                // It fails only when the counter is full: then the loop has been told already.
                let _ = rustix::io::write(&self.door.event, &1_u64.to_ne_bytes());
            }
        }
    }
}

impl Reactor {
    /// The loop of this thread, from now on.
    ///
    /// # Errors
    /// The kernel has no more descriptors for us.
    pub(crate) fn open() -> io::Result<Rc<Self>> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let event = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        // Edges: who knocks again is heard again, and the counter need not be read.
        epoll::add(&epoll, &event, epoll::EventData::new_u64(KNOCK), epoll::EventFlags::IN | epoll::EventFlags::ET)?;
        let reactor = Rc::new(Self {
            epoll,
            events: RefCell::new(Vec::with_capacity(EVENTS_MAX)),
            sources: RefCell::default(),
            tasks: RefCell::default(),
            queue: RefCell::default(),
            yielded: RefCell::default(),
            timers: RefCell::default(),
            now: Cell::new(Instant::now()),
            rounds: Cell::new(0),
            door: Arc::new(Door { event, woken: Mutex::default(), is_knocked: AtomicBool::new(false) }),
        });
        HERE.set(Some(reactor.clone()));
        Ok(reactor)
    }

    /// When the events that are dealt with now were taken: a clock that costs nothing, and is exact to one round of the loop.
    pub(crate) fn now(&self) -> Instant {
        self.now.get()
    }

    /// How many rounds there have been.
    pub(crate) fn rounds(&self) -> u64 {
        self.rounds.get()
    }

    /// Begins a task, which learns its name.
    pub(crate) fn start<T: Task + 'static>(&self, make: impl FnOnce(TaskId) -> T) {
        let mut tasks = self.tasks.borrow_mut();
        let entry = tasks.vacant_entry();
        let id = TaskId(u32::try_from(entry.key()).expect("there are fewer tasks than descriptors, more or less"));
        entry.insert(Entry { task: Some(Box::new(make(id))), is_queued: true });
        self.queue.borrow_mut().push_back(id);
    }

    /// Begins a future as a task.
    pub(crate) fn spawn(&self, future: impl Future<Output = ()> + 'static) {
        self.start(|id| Async {
            future: Box::pin(future),
            waker: Waker::from(Arc::new(Knock { door: self.door.clone(), id })),
        });
    }

    fn queue(&self, id: TaskId) {
        if let Some(entry) = self.tasks.borrow_mut().get_mut(id.0 as usize)
            && !std::mem::replace(&mut entry.is_queued, true)
        {
            self.queue.borrow_mut().push_back(id);
        }
    }

    /// One round: waits for events, if nothing else is to be done, but not beyond `until`; and then each task has its turn that may
    /// have something to do.
    pub(crate) fn turn(&self, until: Instant) {
        let patience = if self.queue.borrow().is_empty() && self.yielded.borrow().is_empty() {
            let first = self.timers.borrow().first().map_or(until, |(at, _)| until.min(*at));
            first.saturating_duration_since(Instant::now())
        } else {
            Duration::ZERO
        };
        self.listen(patience);
        self.now.set(Instant::now());
        self.rounds.set(self.rounds.get() + 1);
        self.ring();
        for id in self.yielded.borrow_mut().drain(..) {
            self.queue.borrow_mut().push_back(id);
        }
        for _ in 0..TURNS_MAX {
            let Some(id) = self.queue.borrow_mut().pop_front() else { break };
            self.run(id);
        }
    }

    fn listen(&self, patience: Duration) {
        let mut events = self.events.borrow_mut();
        events.clear();
        // In whole milliseconds, not to be awake before it is time.
        let millis = patience.as_nanos().div_ceil(1_000_000).min(60_000) as i64;
        let timeout = Timespec { tv_sec: millis / 1_000, tv_nsec: millis % 1_000 * 1_000_000 };
        let room = rustix::buffer::spare_capacity(&mut events);
        if let Err(error) = epoll::wait(&self.epoll, room, Some(&timeout)) {
            // A signal; anything else would be a bug of ours, and comes again with every call.
            debug_assert_eq!(error, rustix::io::Errno::INTR);
        }
        for event in events.iter() {
            let (flags, key) = (event.flags, event.data.u64());
            if key == KNOCK {
                self.answer_the_door();
                continue;
            }
            let sources = self.sources.borrow();
            let Some(source) = sources.get(usize::try_from(key).unwrap_or(usize::MAX)) else { continue };
            source.ready.set(source.ready.get() | readiness(flags));
            if source.owner.get() != TaskId::NOBODY {
                self.queue(source.owner.get());
            }
        }
    }

    fn answer_the_door(&self) {
        // First: who comes after what is taken knocks again.
        self.door.is_knocked.store(false, Ordering::Release);
        let woken = std::mem::take(&mut *self.door.woken.lock().unwrap_or_else(PoisonError::into_inner));
        woken.into_iter().for_each(|id| self.queue(id));
    }

    /// Wakes those whose time has come.
    fn ring(&self) {
        let now = self.now.get();
        loop {
            let mut timers = self.timers.borrow_mut();
            let Some(&(at, id)) = timers.first().filter(|(at, _)| *at <= now) else { return };
            timers.remove(&(at, id));
            drop(timers);
            self.queue(id);
        }
    }

    fn run(&self, id: TaskId) {
        let key = id.0 as usize;
        let task = match self.tasks.borrow_mut().get_mut(key) {
            Some(entry) => {
                entry.is_queued = false;
                entry.task.take()
            }
            None => None,
        };
        let Some(mut task) = task else { return };
        CURRENT.set(id);
        let is_over = task.turn();
        CURRENT.set(TaskId::NOBODY);
        let mut tasks = self.tasks.borrow_mut();
        if is_over {
            tasks.remove(key);
        } else if let Some(entry) = tasks.get_mut(key) {
            entry.task = Some(task);
            return;
        }
        drop(tasks);
        drop(task);
    }
}

fn readiness(flags: epoll::EventFlags) -> u8 {
    use epoll::EventFlags as F;
    let mut ready = 0;
    if flags.intersects(F::IN | F::RDHUP | F::HUP | F::ERR) {
        ready |= READ;
    }
    if flags.intersects(F::RDHUP | F::HUP | F::ERR) {
        ready |= READ_CLOSED;
    }
    if flags.intersects(F::OUT | F::HUP | F::ERR) {
        ready |= WRITE;
    }
    ready
}

impl Place {
    /// A place for a socket in this thread's loop, which has to be one of ours. It belongs to nobody yet.
    ///
    /// # Errors
    /// The kernel's.
    pub(crate) fn here(socket: impl AsFd) -> io::Result<Self> {
        Self::registered(socket, flags(false))
    }

    /// A place for a socket that listens, maybe in the loops of other threads, too: of those that wait, one is told of a client, and
    /// told until there is none left.
    ///
    /// # Errors
    /// The kernel's.
    pub(crate) fn listening(socket: impl AsFd) -> io::Result<Self> {
        Self::registered(socket, epoll::EventFlags::IN | epoll::EventFlags::EXCLUSIVE)
    }

    fn registered(socket: impl AsFd, flags: epoll::EventFlags) -> io::Result<Self> {
        let reactor = HERE.with_borrow(Clone::clone).ok_or(io::ErrorKind::Unsupported)?;
        let source = Source { ready: Cell::new(WRITE), owner: Cell::new(TaskId::NOBODY), tells_room: Cell::new(false) };
        let source = Rc::new(source);
        let mut sources = reactor.sources.borrow_mut();
        let entry = sources.vacant_entry();
        let key = u32::try_from(entry.key()).expect("there are fewer sockets than that");
        epoll::add(&reactor.epoll, socket, epoll::EventData::new_u64(key.into()), flags)?;
        entry.insert(source.clone());
        Ok(Self { source, key })
    }

    /// From now on this task is woken for it. What is ready stays known.
    pub(crate) fn hand_to(&self, task: TaskId) {
        self.source.owner.set(task);
    }

    pub(crate) fn is_readable(&self) -> bool {
        self.source.ready.get() & READ != 0
    }

    pub(crate) fn is_writable(&self) -> bool {
        self.source.ready.get() & WRITE != 0
    }

    /// A read brought `n` bytes of `wanted`: did that empty the socket?
    pub(crate) fn note_read(&self, n: usize, wanted: usize) {
        let ready = self.source.ready.get();
        if 0 < n && n < wanted && ready & READ_CLOSED == 0 {
            self.source.ready.set(ready & !READ);
        }
    }

    /// Something may have arrived before it had its place.
    pub(crate) fn suppose_readable(&self) {
        self.source.ready.set(self.source.ready.get() | READ);
    }

    /// A read found nothing.
    pub(crate) fn note_empty(&self) {
        self.source.ready.set(self.source.ready.get() & !(READ | READ_CLOSED));
    }

    /// A write found no room.
    pub(crate) fn note_full(&self, socket: impl AsFd) {
        self.source.ready.set(self.source.ready.get() & !WRITE);
        if !self.source.tells_room.replace(true)
            && let Some(reactor) = HERE.with_borrow(Clone::clone)
        {
            // It tells at once if there is room again. It can only fail for want of memory, and then the peer is not served.
            let data = epoll::EventData::new_u64(self.key.into());
            let _ = epoll::modify(&reactor.epoll, socket, data, flags(true));
        }
    }

    pub(crate) async fn readable(&self) {
        self.wait(READ).await;
    }

    pub(crate) async fn writable(&self) {
        self.wait(WRITE).await;
    }

    async fn wait(&self, what: u8) {
        poll_fn(|_| {
            if self.source.ready.get() & what != 0 {
                return Poll::Ready(());
            }
            self.source.owner.set(CURRENT.get());
            Poll::Pending
        })
        .await;
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        // The kernel forgets the socket itself when it is closed. It is not, if it goes to another thread: see `leave`.
        let _ = HERE.try_with(|here| {
            if let Some(reactor) = &*here.borrow() {
                reactor.sources.borrow_mut().try_remove(self.key as usize);
            }
        });
    }
}

impl Place {
    /// To be called for a socket that stays open when the place is given up.
    pub(crate) fn leave(&self, socket: impl AsFd) {
        HERE.with_borrow(|here| {
            if let Some(reactor) = here {
                let _ = epoll::delete(&reactor.epoll, socket);
            }
        });
    }
}

fn flags(with_room: bool) -> epoll::EventFlags {
    use epoll::EventFlags as F;
    let flags = F::IN | F::RDHUP | F::ET;
    if with_room { flags | F::OUT } else { flags }
}

/// Wakes a task of this thread.
pub(crate) fn wake(id: TaskId) {
    HERE.with_borrow(|here| {
        if let Some(reactor) = here {
            reactor.queue(id);
        }
    });
}

/// Is the task that has its turn one of a loop of ours?
pub(crate) fn is_here() -> bool {
    CURRENT.get() != TaskId::NOBODY
}

/// The task that has its turn gets another one when new events have been looked for.
pub(crate) fn come_again() {
    HERE.with_borrow(|here| {
        let id = CURRENT.get();
        if let Some(reactor) = here
            && let Some(entry) = reactor.tasks.borrow_mut().get_mut(id.0 as usize)
            && !std::mem::replace(&mut entry.is_queued, true)
        {
            reactor.yielded.borrow_mut().push(id);
        }
    });
}

/// Lets the others have a turn.
pub(crate) async fn yield_now() {
    let mut is_first = true;
    poll_fn(|_| {
        if !std::mem::take(&mut is_first) {
            return Poll::Ready(());
        }
        come_again();
        Poll::Pending
    })
    .await;
}

/// Lets this time pass. For tasks of a loop of ours.
pub(crate) async fn sleep(time: Duration) {
    timeout(time, std::future::pending::<()>()).await;
}

/// A time at which a task is woken; not after this is dropped.
struct Alarm(Instant, TaskId);

impl Drop for Alarm {
    fn drop(&mut self) {
        let _ = HERE.try_with(|here| {
            if let Some(reactor) = &*here.borrow() {
                reactor.timers.borrow_mut().remove(&(self.0, self.1));
            }
        });
    }
}

/// What `future` comes to, if it does so in this time. For tasks of a loop of ours.
pub(crate) async fn timeout<T>(limit: Duration, future: impl Future<Output = T>) -> Option<T> {
    let mut future = pin!(future);
    let at = Instant::now() + limit;
    let mut alarm = None;
    poll_fn(|cx| {
        if let Poll::Ready(done) = future.as_mut().poll(cx) {
            return Poll::Ready(Some(done));
        }
        if Instant::now() >= at {
            return Poll::Ready(None);
        }
        alarm.get_or_insert_with(|| {
            HERE.with_borrow(|here| {
                let reactor = here.as_ref().expect("it is a task of a loop of ours that waits");
                reactor.timers.borrow_mut().insert((at, CURRENT.get()));
            });
            Alarm(at, CURRENT.get())
        });
        Poll::Pending
    })
    .await
}

#[cfg(test)]
mod tests {
    use tokio::sync::{mpsc, oneshot};

    use super::*;
    use crate::net::pair;

    impl Reactor {
        /// Runs the loop until `future` is over.
        pub(crate) fn block_on(&self, future: impl Future<Output = ()> + 'static) {
            let is_over = Rc::new(Cell::new(false));
            let told = is_over.clone();
            self.spawn(async move {
                future.await;
                told.set(true);
            });
            while !is_over.get() {
                self.turn(Instant::now() + Duration::from_secs(1));
            }
        }
    }

    #[test]
    fn other_threads_wake_a_task() {
        let reactor = Reactor::open().expect("a loop");
        let (to_us, mut ours) = mpsc::unbounded_channel();
        let (to_them, theirs) = std::sync::mpsc::channel::<u32>();
        let echo = std::thread::spawn(move || theirs.iter().all(|n| to_us.send(n).is_ok()));
        reactor.block_on(async move {
            for n in 0..1_000 {
                to_them.send(n).expect("it listens");
                assert_eq!(ours.recv().await, Some(n));
            }
        });
        assert!(echo.join().expect("it ends with its channel"));
    }

    #[test]
    fn time_passes_for_those_who_wait() {
        let reactor = Reactor::open().expect("a loop");
        let looked_at = reactor.clone();
        reactor.block_on(async move {
            let (keep, never) = oneshot::channel::<()>();
            let begun = Instant::now();
            assert!(timeout(Duration::from_millis(20), never).await.is_none());
            assert!(begun.elapsed() >= Duration::from_millis(20));
            drop(keep);
            let (tell, soon) = oneshot::channel();
            tell.send(7).expect("somebody listens");
            assert_eq!(timeout(Duration::from_secs(100), soon).await, Some(Ok(7)));
            assert!(looked_at.timers.borrow().is_empty(), "nothing is left of either");
        });
    }

    #[test]
    fn who_always_has_more_to_do_keeps_nobody_from_their_turn() {
        let reactor = Reactor::open().expect("a loop");
        let is_over = Rc::new(Cell::new(false));
        let busy = is_over.clone();
        reactor.spawn(async move {
            while !busy.get() {
                yield_now().await;
            }
        });
        reactor.block_on(async move {
            let (ours, theirs) = pair();
            let mut all = Vec::new();
            for n in 1..=100 {
                theirs.write_all(b"x").await.expect("room");
                ours.read_some(&mut all, 64).await.expect("it is open");
                assert_eq!(all.len(), n);
            }
            is_over.set(true);
        });
    }

    #[test]
    fn a_last_word_and_the_end_behind_it_are_both_read() {
        let reactor = Reactor::open().expect("a loop");
        reactor.block_on(async {
            let (ours, theirs) = pair();
            theirs.write_all(b"bye").await.expect("room");
            drop(theirs);
            let mut all = Vec::new();
            assert_eq!(ours.read_some(&mut all, 64).await.expect("words"), 3);
            assert_eq!(ours.read_some(&mut all, 64).await.expect("the end"), 0);
        });
    }

    #[test]
    fn places_of_tasks_and_sockets_are_used_again() {
        let reactor = Reactor::open().expect("a loop");
        let looked_at = reactor.clone();
        reactor.block_on(async move {
            for _ in 0..100 {
                let (ours, theirs) = pair();
                let (done, told) = oneshot::channel();
                looked_at.spawn(async move {
                    let mut all = Vec::new();
                    ours.read_some(&mut all, 64).await.expect("it is open");
                    done.send(all).expect("somebody listens");
                });
                yield_now().await;
                theirs.write_all(b"x").await.expect("room");
                assert_eq!(told.await.as_deref(), Ok(&b"x"[..]));
            }
            assert!(looked_at.tasks.borrow().capacity() < 8 && looked_at.sources.borrow().capacity() < 8);
        });
    }
}
