//! Channels: where a session's notifications come from. A session that listens is pinned, until the pool's hub (`hub.rs`)
//! listens for it; from then on it shares servers like any other, and goes back to a server of its own for as long as a
//! command may concern channels.
//!
//! Each move between a server and the hub has a mark: a notification of our own, sent by the session's server, that both
//! get. All listeners of a database read one queue in one order (`src/backend/commands/async.c`), so what is in front of
//! the mark is the one's to tell, and what is behind it the other's: nothing is lost, told twice, or out of order.

use std::collections::BTreeSet;
use std::sync::Arc;

use pgsluice_sql::Effects;
use pgsluice_wire::{
    BackendWriter, Bind, FrontendWriter, HEAD_LEN, Head, Notification, Parse, TxStatus, tag::frontend,
};

use crate::Ctx;
use crate::error::Refusal;
use crate::frontend::{Flow, Pooling, Session};
use crate::hub::HubEvent;
use crate::ledger::Owed;
use crate::message::Message;
use crate::named::text_of;
use crate::server::{Guard, NOBODYS, Server};
use crate::tracking::{PinPolicy, PinReason};

/// Names of channels, in bytes as the client's encoding has them.
pub type Channels = BTreeSet<Box<[u8]>>;

/// Channels of one session that a hub listens to; a session with more keeps its server.
const CHANNELS_MAX: usize = 1_000;

/// What has to run where the session's channels are: what reads or changes them, may do so unseen, opens a block in which it
/// could follow, or may change the encoding in which notifications are told.
const CONCERNS: Effects = Effects::ANYTHING
    .union(Effects::LISTEN)
    .union(Effects::LISTEN_READ)
    .union(Effects::DISCARD)
    .union(Effects::TRANSACTION)
    .union(Effects::SETTINGS);

/// Where notifications come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Source {
    /// The session's own server.
    Server,
    /// The same; the hub is asked to listen, too.
    Joining,
    /// The same, and the hub does listen.
    Joined,
    /// Up to the mark the server, then the hub. Which of them has come to the mark?
    Moving { server: bool, hub: bool },
    /// The hub.
    Hub,
    /// Up to the mark the hub, then the server.
    Returning { server: bool, hub: bool },
}

/// What a session listens to.
#[derive(Debug)]
pub(crate) struct Listening {
    channels: Arc<Channels>,
    source: Source,
    /// The hub's channel for marks, once one is known.
    marks_by: Option<Arc<[u8]>>,
    /// A move failed: there is no other try before its channels are others.
    failed: bool,
    /// Messages that the client is to be told before anything newer.
    pending: Vec<u8>,
    /// Messages of the server's from behind the mark.
    held: Vec<u8>,
}

impl Listening {
    fn new(channels: Channels, marks_by: Option<Arc<[u8]>>) -> Self {
        Self {
            channels: Arc::new(channels),
            source: Source::Server,
            marks_by,
            failed: false,
            pending: Vec::new(),
            held: Vec::new(),
        }
    }

    /// The server goes on as if there had never been a move.
    fn stay(&mut self) {
        self.pending.clear();
        self.pending.append(&mut self.held);
        self.source = Source::Server;
    }

    fn uses_hub(&self) -> bool {
        self.source != Source::Server
    }
}

/// What stands in a session's mark.
pub(crate) fn mark_payload(session: u64, mark: u64) -> Vec<u8> {
    format!("{session}.{mark}").into_bytes()
}

/// Appends a command about a channel: its name is an identifier in quotes.
pub(crate) fn write_channel(verb: &str, channel: &[u8], out: &mut Vec<u8>) {
    out.extend(verb.as_bytes());
    out.extend(b" \"");
    for byte in channel {
        out.push(*byte);
        out.extend((*byte == b'"').then_some(b'"'));
    }
    out.push(b'"');
}

impl Session {
    /// The channels that it listens to, as of the last audit.
    pub fn channels(&self) -> Option<&Arc<Channels>> {
        self.listening.as_ref().map(|listening| &listening.channels)
    }

    /// Do its notifications come from the hub?
    pub fn is_on_hub(&self) -> bool {
        self.source() == Some(Source::Hub)
    }

    /// Is it on its way to the hub or back? Until it is there it takes nothing from its client.
    pub fn is_switching(&self) -> bool {
        matches!(self.source(), Some(Source::Moving { .. } | Source::Returning { .. }))
    }

    /// Has its server come to the mark, and the hub not?
    pub fn waits_for_hub(&self) -> bool {
        matches!(
            self.source(),
            Some(Source::Moving { server: true, hub: false } | Source::Returning { server: true, hub: false })
        )
    }

    /// Does nothing but channels keep it on its server, so that a hub could listen for it?
    pub fn wants_hub(&self, server: &Server) -> bool {
        self.listening.as_ref().is_some_and(|l| l.source == Source::Server && !l.failed) && self.could_move(server)
    }

    /// Does the hub listen for it, and can it leave its server?
    pub fn wants_move(&self, server: &Server) -> bool {
        self.source() == Some(Source::Joined) && self.could_move(server)
    }

    /// Did it begin to listen where nobody expected it? Then all its channels have to come to this server.
    pub fn wants_return(&self, server: &Server) -> bool {
        self.is_on_hub() && server.pins.contains(Effects::LISTEN) && server.is_quiet()
    }

    fn source(&self) -> Option<Source> {
        self.listening.as_ref().map(|listening| listening.source)
    }

    fn could_move(&self, server: &Server) -> bool {
        self.tracking.policy(PinReason::Listen) == PinPolicy::Pin
            && server.pins == Effects::LISTEN
            && server.is_quiet()
            && server.touched.parts().is_empty()
            && server.audit.is_none()
            && !server.is_close_needed()
            && !server.is_in_cancels_way()
            && !self.is_mid_message()
            && self.listening.as_ref().is_some_and(|l| l.channels.len() <= CHANNELS_MAX && l.pending.is_empty())
    }

    /// The hub has been asked to listen for it.
    pub fn join(&mut self) {
        if let Some(listening) = &mut self.listening {
            listening.source = Source::Joining;
        }
    }

    /// Its server has become the hub, whose marks come by this channel.
    pub fn found(&mut self, marks_by: Arc<[u8]>) {
        if let Some(listening) = &mut self.listening {
            (listening.source, listening.marks_by) = (Source::Hub, Some(marks_by));
            self.count().unpins += 1;
        }
    }

    /// Has it no use any more for the hub that listened for it? Asked once.
    pub fn take_left_hub(&mut self) -> bool {
        std::mem::take(&mut self.left_hub)
    }

    /// The mark that it has just sent, for the hub to look out for. Asked once.
    pub fn take_mark(&mut self) -> Option<u64> {
        std::mem::take(&mut self.mark_due).then_some(self.marks)
    }

    /// Has it anything to do with channels?
    #[inline]
    pub fn is_listening(&self) -> bool {
        self.listening.is_some() || self.mark_due
    }

    /// The mark it sent last.
    pub fn mark(&self) -> u64 {
        self.marks
    }

    /// News from the hub.
    ///
    /// # Errors
    /// The session has to end: notifications may be lost.
    pub fn hear(&mut self, event: HubEvent) -> Result<(), Refusal> {
        let Some(listening) = &mut self.listening else { return Ok(()) };
        match (event, &mut listening.source) {
            (HubEvent::Joined(marks_by), Source::Joining) => {
                (listening.source, listening.marks_by) = (Source::Joined, Some(marks_by));
            }
            (
                HubEvent::Notification(message),
                Source::Moving { hub: true, .. } | Source::Hub | Source::Returning { hub: false, .. },
            ) => listening.pending.extend_from_slice(&message),
            (HubEvent::Mark(mark), Source::Moving { hub, .. } | Source::Returning { hub, .. }) => {
                *hub |= mark == self.marks;
            }
            (HubEvent::Lost, Source::Joining | Source::Joined) => listening.source = Source::Server,
            (HubEvent::Lost, Source::Moving { .. }) => listening.stay(),
            (HubEvent::Lost, Source::Hub | Source::Returning { hub: false, .. }) => return Err(Refusal::HubLost),
            _ => {}
        }
        Ok(())
    }

    /// Its server sent a notification. Is the client told at once?
    pub(crate) fn hear_server(&mut self, body: &[u8]) -> bool {
        let mark = mark_payload(self.id, self.marks);
        let Some(listening) = &mut self.listening else { return true };
        let Ok(notification) = Notification::read(body) else { return true };
        if listening.marks_by.as_deref() == Some(notification.channel) {
            if let Source::Moving { server, .. } | Source::Returning { server, .. } = &mut listening.source {
                *server |= notification.payload == mark;
            }
            return false;
        }
        match listening.source {
            Source::Moving { server: true, .. } | Source::Returning { server: true, .. } => {
                BackendWriter(&mut listening.held).notification(body);
                false
            }
            // What waits came by the hub, from behind the mark.
            Source::Moving { server: false, .. } => true,
            Source::Hub | Source::Returning { server: false, .. } => false,
            _ if listening.pending.is_empty() => true,
            _ => {
                BackendWriter(&mut listening.pending).notification(body);
                false
            }
        }
    }

    /// Appends the mark behind which the hub tells what the server told so far.
    pub fn write_move(&mut self, server: &mut Server, out: &mut Vec<u8>) {
        self.begin_switch(Source::Moving { server: false, hub: false });
        let text = self.mark_text();
        listen_query(server, &text, out);
    }

    /// Appends what brings the session's channels to its server, and the mark behind which that tells what the hub told so
    /// far.
    pub fn write_return(&mut self, server: &mut Server, out: &mut Vec<u8>) {
        self.begin_switch(Source::Returning { server: false, hub: false });
        let mut text = Vec::new();
        for channel in self.listening.iter().flat_map(|l| l.channels.iter()) {
            write_channel("LISTEN", channel, &mut text);
            text.push(b';');
        }
        text.extend(self.mark_text());
        listen_query(server, &text, out);
        // The client may look at its channels.
        text.clear();
        self.write_marks_by("UNLISTEN", &mut text);
        listen_query(server, &text, out);
        server.pins |= Effects::LISTEN;
        server.touched |= Effects::LISTEN;
        server.guard = Guard::Shut;
    }

    fn begin_switch(&mut self, source: Source) {
        self.marks += 1;
        self.mark_due = true;
        if let Some(listening) = &mut self.listening {
            listening.source = source;
        }
    }

    fn write_marks_by(&self, verb: &str, text: &mut Vec<u8>) {
        let marks_by = self.listening.as_ref().and_then(|l| l.marks_by.as_deref());
        write_channel(verb, marks_by.unwrap_or_default(), text);
    }

    fn mark_text(&self) -> Vec<u8> {
        let mut text = Vec::new();
        self.write_marks_by("LISTEN", &mut text);
        text.push(b';');
        self.write_marks_by("NOTIFY", &mut text);
        text.extend(b", '");
        text.extend(mark_payload(self.id, self.marks));
        text.push(b'\'');
        text
    }

    /// A move is over when both sides have come to the mark.
    pub fn settle_listening(&mut self, server: &mut Server) {
        let Some(listening) = &mut self.listening else { return };
        match listening.source {
            Source::Moving { server: true, hub: true } if server.is_quiet() => {
                listening.held.clear();
                listening.source = Source::Hub;
                // What it listens to is removed before anybody else gets it.
                server.pins = server.pins.without(Effects::LISTEN);
                server.residue |= Effects::LISTEN;
                self.count().unpins += 1;
            }
            Source::Returning { server: true, hub: true } if !server.is_replaying() => {
                let mut held = std::mem::take(&mut listening.held);
                listening.pending.append(&mut held);
                listening.source = Source::Server;
            }
            _ => {}
        }
    }

    /// The mark did not come in time, or could not be sent: the session stays on its server.
    ///
    /// # Errors
    /// It was to leave the hub, and so has no server to stay on.
    pub fn abandon_switch(&mut self) -> Result<(), Refusal> {
        match (self.source(), &mut self.listening) {
            (Some(Source::Moving { .. }), Some(listening)) => {
                listening.stay();
                listening.failed = true;
                self.left_hub = true;
                Ok(())
            }
            (Some(Source::Returning { .. }), _) => Err(Refusal::HubLost),
            _ => Ok(()),
        }
    }

    /// The mark could not be sent. Was it on its way to the hub, so that nobody need know?
    pub(crate) fn fail_move(&mut self) -> bool {
        matches!(self.source(), Some(Source::Moving { .. })) && self.abandon_switch().is_ok()
    }

    /// The server did not take what was replayed on it: the session has another one next, or none.
    ///
    /// # Errors
    /// It is not known whether the hub still tells its notifications.
    pub fn undo_return(&mut self) -> Result<(), Refusal> {
        match &mut self.listening {
            Some(listening) if listening.source == (Source::Returning { server: false, hub: false }) => {
                listening.source = Source::Hub;
                Ok(())
            }
            Some(listening) if matches!(listening.source, Source::Returning { .. }) => Err(Refusal::HubLost),
            _ => Ok(()),
        }
    }

    /// An audit found these.
    pub(crate) fn take_channels(&mut self, mut found: Channels, server: &mut Server) {
        if !server.pins.contains(Effects::LISTEN) {
            found.clear();
        }
        let marks_by = self.listening.as_ref().and_then(|l| l.marks_by.clone());
        // A move was abandoned: marks still come, and are not to be shown.
        let hears_marks = marks_by.as_ref().is_some_and(|marks_by| found.remove(&**marks_by));
        if hears_marks {
            server.residue |= Effects::LISTEN;
            if found.is_empty() {
                server.pins = server.pins.without(Effects::LISTEN);
            }
        }
        match &mut self.listening {
            Some(l) if l.source == Source::Hub && found.is_empty() => {}
            Some(l) if l.source == Source::Hub => l.channels = Arc::new(l.channels.union(&found).cloned().collect()),
            Some(l) if *l.channels == found => {}
            listening => {
                self.left_hub |= listening.as_ref().is_some_and(|l| l.uses_hub());
                let listens = !found.is_empty() || hears_marks;
                *listening = listens.then(|| Box::new(Listening::new(found, marks_by)));
            }
        }
    }

    /// Appends the notifications that have come, if the client is between its commands. `server` is its server, if it has
    /// one.
    pub fn write_notifications(&mut self, server: Option<&Server>, out: &mut Vec<u8>) -> bool {
        let between = self.flow == Flow::Normal && !self.in_batch && self.rest.0 == 0;
        if !between || !server.is_none_or(Server::is_quiet) {
            return false;
        }
        self.tell_pending(out)
    }

    /// The same right in front of its ReadyForQuery.
    pub(crate) fn tell_pending(&mut self, out: &mut Vec<u8>) -> bool {
        match &mut self.listening {
            Some(l) if !l.pending.is_empty() && !matches!(l.source, Source::Moving { .. }) => {
                out.append(&mut std::mem::take(&mut l.pending));
                true
            }
            _ => false,
        }
    }

    /// Bytes of notifications that it has not been told.
    pub fn untold(&self) -> usize {
        self.listening.as_ref().map_or(0, |l| l.pending.len() + l.held.len())
    }

    /// Does a message begin a command or batch that has to run where the session's channels are, which is nowhere yet?
    pub(crate) fn must_return(&self, message: Message<'_>, server: &Server, ctx: &mut Ctx<'_>) -> bool {
        if !self.is_on_hub() {
            return false;
        }
        let begins = matches!(
            message.head.tag,
            frontend::QUERY
                | frontend::PARSE
                | frontend::BIND
                | frontend::DESCRIBE
                | frontend::EXECUTE
                | frontend::CLOSE
                | frontend::FUNCTION_CALL
        );
        let under_way = server.tx != TxStatus::Idle || server.ledger.is_in_batch() || server.copying_in;
        begins && !under_way && !self.is_indifferent(message, ctx)
    }

    /// Is it certain that what begins with this message has nothing to do with channels? Of a batch all is looked at, up to
    /// its Sync: it is one transaction, and once it is under way no server can be prepared for it.
    fn is_indifferent(&self, message: Message<'_>, ctx: &mut Ctx<'_>) -> bool {
        if message.head.tag == frontend::QUERY {
            return message.missing() == 0 && self.spares_channels(message.body(), ctx);
        }
        let mut rest = &message.input[message.at..];
        let mut parsed = Vec::new();
        loop {
            let Ok(Some(head)) = Head::read(rest) else { return false };
            let Some(body) = rest.get(HEAD_LEN..head.total()) else { return false };
            let fine = match head.tag {
                frontend::SYNC => return true,
                frontend::PARSE => Parse::read(body).is_ok_and(|parse| {
                    parsed.push(parse.name);
                    self.spares_channels(text_of(parse.content), ctx)
                }),
                frontend::BIND => Bind::read(body).is_some_and(|bind| match self.named(bind.statement) {
                    Some(named) => self.spares_channels(named.statement.text(), ctx),
                    None if parsed.contains(&bind.statement) => true,
                    None if bind.statement.is_empty() => {
                        let content = &self.unnamed.content;
                        !content.is_empty() && self.spares_channels(text_of(content), ctx)
                    }
                    None => false,
                }),
                frontend::DESCRIBE | frontend::EXECUTE | frontend::CLOSE | frontend::FLUSH => true,
                _ => false,
            };
            if !fine {
                return false;
            }
            rest = &rest[head.total()..];
        }
    }

    fn spares_channels(&self, text: &[u8], ctx: &mut Ctx<'_>) -> bool {
        !self.read(text, true, ctx).effects.intersects(CONCERNS)
    }
}

impl Server {
    /// A notification: is it for the client? One that comes though nobody was seen to LISTEN since the server was clean is
    /// for whoever did so out of sight, in a function; that may have been another client.
    pub(crate) fn handle_notification(&mut self, session: Option<&mut Session>, body: &[u8]) -> bool {
        if let Some(heard) = &mut self.heard {
            heard.push(body.into());
            return false;
        }
        let asked = self.audit.as_ref().map(|audit| audit.scope()).unwrap_or_default();
        let known = self.residue | self.touched | self.pins | asked;
        let expected = known.intersects(Effects::ANYTHING | Effects::LISTEN)
            || session.as_ref().is_some_and(|s| s.pooling == Pooling::Session);
        if !expected && !self.ledger.front().is_some_and(Owed::is_hidden) {
            self.set_close_needed();
        }
        expected && session.is_some_and(|session| session.hear_server(body))
    }
}

/// Appends a command of our own about channels.
pub(crate) fn listen_query(server: &mut Server, text: &[u8], out: &mut Vec<u8>) {
    FrontendWriter(out).query(text);
    server.owe_hidden_cycle(Owed::HiddenListen);
    server.unnamed = Some(NOBODYS);
}
