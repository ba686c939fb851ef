//! The hub of a pool: one server that listens to the channels of many sessions, and whose notifications go to those that
//! listen to their channel. Who has them from the hub, and from when to when, is settled by marks, see `listen.rs`.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use pgsluice_sql::Effects;
use pgsluice_wire::{BackendWriter, Notification};

use crate::listen::{Channels, listen_query, write_channel};
use crate::server::Server;

/// Time limits that would end a server which only listens, or a command of its own.
const LIMITS: &str = "'idle_session_timeout','statement_timeout','lock_timeout','transaction_timeout'";

/// What a hub tells a session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HubEvent {
    /// It listens to all of the session's channels; marks come by this one.
    Joined(Arc<[u8]>),
    /// A NotificationResponse for the session.
    Notification(Arc<[u8]>),
    /// The session's mark has come.
    Mark(u64),
    /// The hub is no more.
    Lost,
}

/// A session that a hub listens for.
#[derive(Debug)]
struct Listener {
    channels: Arc<Channels>,
    /// It has been told that the hub listens.
    joined: bool,
    /// Notifications are for it, not only for its server.
    active: bool,
    /// The mark that it sent last, and the backend it sent it by.
    expected: Option<(u64, u32)>,
}

/// A command under way.
#[derive(Debug)]
enum Asked {
    SetUp,
    Listen(Channels),
    Unlisten,
}

/// See the module's documentation.
#[derive(Debug)]
pub struct Hub {
    marks_by: Arc<[u8]>,
    encoding: Box<str>,
    is_set_up: bool,
    asked: Option<Asked>,
    /// Channels that the server listens to.
    listening: Channels,
    /// Channels that it shall listen to, too.
    missing: Channels,
    /// Nobody's any more.
    stale: Channels,
    is_tidy_due: bool,
    listeners: HashMap<u64, Listener>,
    /// Who listens to which channel.
    by_channel: HashMap<Box<[u8]>, BTreeSet<u64>>,
    /// Those who have not been told that the hub listens for them.
    joining: Vec<u64>,
}

impl Hub {
    /// A hub on the server of a session that listens to these channels there, and to nothing else. From now on its
    /// notifications come by the hub.
    pub fn new(server: &mut Server, session: u64, channels: &Arc<Channels>) -> Self {
        server.heard = Some(Vec::new());
        server.pins = Effects::default();
        // What is to be removed when it is a hub no more.
        server.residue |= Effects::LISTEN | Effects::SETTINGS;
        let mut hub = Self {
            // No two servers that listen at a time have the same process id.
            marks_by: format!("pgsluice_{}", server.key.pid).into_bytes().into(),
            encoding: encoding(server).into(),
            is_set_up: false,
            asked: None,
            listening: (**channels).clone(),
            missing: Channels::new(),
            stale: Channels::new(),
            is_tidy_due: false,
            listeners: HashMap::new(),
            by_channel: HashMap::new(),
            joining: Vec::new(),
        };
        hub.add(session, channels, true);
        hub
    }

    /// The channel by which marks come.
    pub fn marks_by(&self) -> &Arc<[u8]> {
        &self.marks_by
    }

    /// Can it listen for a session of this server's? Notifications are told in the encoding of the server that listens.
    pub fn suits(&self, server: &Server) -> bool {
        *self.encoding == *encoding(server)
    }

    /// Sessions that it listens for.
    pub fn len(&self) -> usize {
        self.listeners.len()
    }

    /// Does it listen for this session?
    pub fn has(&self, session: u64) -> bool {
        self.listeners.contains_key(&session)
    }

    /// Does it listen for nobody?
    pub fn is_empty(&self) -> bool {
        self.listeners.is_empty()
    }

    /// It shall listen for a session, which has its notifications from its own server yet.
    pub fn join(&mut self, session: u64, channels: &Arc<Channels>) {
        self.leave(session);
        self.add(session, channels, false);
        self.joining.push(session);
    }

    fn add(&mut self, session: u64, channels: &Arc<Channels>, active: bool) {
        for channel in channels.iter() {
            self.by_channel.entry(channel.clone()).or_default().insert(session);
            self.stale.remove(channel);
            if !self.listening.contains(channel) {
                self.missing.insert(channel.clone());
            }
        }
        let listener = Listener { channels: channels.clone(), joined: active, active, expected: None };
        self.listeners.insert(session, listener);
    }

    /// A session has no use for it any more.
    pub fn leave(&mut self, session: u64) {
        let Some(listener) = self.listeners.remove(&session) else { return };
        for channel in listener.channels.iter() {
            if let Some(sessions) = self.by_channel.get_mut(channel) {
                sessions.remove(&session);
                if sessions.is_empty() {
                    self.by_channel.remove(channel);
                    self.missing.remove(channel);
                    self.stale.insert(channel.clone());
                }
            }
        }
    }

    /// A session sends a mark by the backend `pid`: up to there its notifications come the one way, then the other.
    pub fn expect(&mut self, session: u64, mark: u64, pid: u32) {
        if let Some(listener) = self.listeners.get_mut(&session) {
            listener.expected = Some((mark, pid));
        }
    }

    /// Channels that nobody wants any more are to be given up. Is there anything to do?
    pub fn tidy(&mut self) -> bool {
        self.is_tidy_due = !self.stale.is_empty();
        self.is_tidy_due
    }

    /// Appends what its server is to be told next, if anything.
    pub fn write(&mut self, server: &mut Server, out: &mut Vec<u8>) {
        if !server.is_quiet() || self.asked.is_some() {
            return;
        }
        let mut text = Vec::new();
        self.asked = Some(if !self.is_set_up {
            text.extend(self.set_up().into_bytes());
            write_channel("LISTEN", &self.marks_by, &mut text);
            Asked::SetUp
        } else if !self.missing.is_empty() {
            let missing = std::mem::take(&mut self.missing);
            write_all("LISTEN", &missing, &mut text);
            Asked::Listen(missing)
        } else if std::mem::take(&mut self.is_tidy_due) && !self.stale.is_empty() {
            let stale = std::mem::take(&mut self.stale);
            self.listening.retain(|channel| !stale.contains(channel));
            write_all("UNLISTEN", &stale, &mut text);
            Asked::Unlisten
        } else {
            return;
        });
        listen_query(server, &text, out);
    }

    /// The session that had this server before may have set anything.
    fn set_up(&self) -> String {
        format!(
            "SET SESSION AUTHORIZATION DEFAULT;RESET ALL;\
             SELECT pg_catalog.set_config(name,'0',false) FROM pg_catalog.pg_settings WHERE name IN ({LIMITS});\
             SELECT pg_catalog.set_config('client_encoding','{}',false);",
            self.encoding
        )
    }

    /// What its server's answers and notifications are to whom, in order; `None` if a command of its own failed.
    pub fn take(&mut self, server: &mut Server) -> Option<Vec<(u64, HubEvent)>> {
        let mut events = Vec::new();
        for body in server.heard.replace(Vec::new()).unwrap_or_default() {
            self.route(&body, &mut events);
        }
        if server.take_own_error().is_some() {
            return None;
        }
        if server.is_quiet() {
            match self.asked.take() {
                Some(Asked::SetUp) => self.is_set_up = true,
                Some(Asked::Listen(channels)) => {
                    // Who wanted one of them may have left.
                    let unwanted = channels.iter().filter(|channel| !self.by_channel.contains_key(*channel));
                    self.stale.extend(unwanted.cloned());
                    self.missing.retain(|channel| !channels.contains(channel));
                    self.listening.extend(channels);
                }
                Some(Asked::Unlisten) | None => {}
            }
        }
        if self.is_set_up {
            self.tell_joined(&mut events);
        }
        Some(events)
    }

    fn tell_joined(&mut self, events: &mut Vec<(u64, HubEvent)>) {
        let Self { joining, listeners, listening, marks_by, .. } = self;
        joining.retain(|session| {
            let Some(listener) = listeners.get_mut(session).filter(|listener| !listener.joined) else { return false };
            if !listener.channels.is_subset(listening) {
                return true;
            }
            listener.joined = true;
            events.push((*session, HubEvent::Joined(marks_by.clone())));
            false
        });
    }

    fn route(&mut self, body: &[u8], events: &mut Vec<(u64, HubEvent)>) {
        let Ok(notification) = Notification::read(body) else { return };
        if notification.channel == &*self.marks_by {
            return self.pass_mark(notification, events);
        }
        let Some(sessions) = self.by_channel.get(notification.channel) else { return };
        let mut message = Vec::new();
        BackendWriter(&mut message).notification(body);
        let message: Arc<[u8]> = message.into();
        let active = sessions.iter().filter(|session| self.listeners.get(session).is_some_and(|l| l.active));
        events.extend(active.map(|session| (*session, HubEvent::Notification(message.clone()))));
    }

    /// From here on a session has its notifications by the hub, or not any more.
    fn pass_mark(&mut self, notification: Notification<'_>, events: &mut Vec<(u64, HubEvent)>) {
        let payload = std::str::from_utf8(notification.payload).ok();
        let Some((session, mark)) = payload.and_then(|p| p.split_once('.')) else { return };
        let (Ok(session), Ok(mark)) = (session.parse::<u64>(), mark.parse::<u64>()) else { return };
        let Some(listener) = self.listeners.get_mut(&session) else { return };
        // Anybody can write to the channel, but not as that backend.
        if listener.expected != Some((mark, notification.pid)) {
            return;
        }
        listener.expected = None;
        events.push((session, HubEvent::Mark(mark)));
        if std::mem::replace(&mut listener.active, true) {
            self.leave(session);
        }
    }
}

impl Server {
    /// It is a hub no more, and can be cleaned like any other.
    pub fn end_hub(&mut self) {
        self.heard = None;
    }
}

fn encoding(server: &Server) -> &str {
    server.params.get("client_encoding").unwrap_or_default()
}

fn write_all(verb: &str, channels: &Channels, text: &mut Vec<u8>) {
    for channel in channels {
        write_channel(verb, channel, text);
        text.push(b';');
    }
}
