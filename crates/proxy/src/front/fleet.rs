//! The part of this instance in a fleet, on one PostgreSQL: carries the errands of [`Fleet`] to PostgreSQL over the control
//! connection, where the marks are session advisory locks, and brings back what the fleet looks like.
//!
//! Source: manual, "Advisory Locks", "pg_locks"; an advisory lock belongs to a database.

use std::collections::HashMap;
use std::io;
use std::rc::Rc;
use std::time::{Duration, Instant, SystemTime};

use pgsluice_console::FleetRow;
use pgsluice_pool::{ClusterId, Errand, Fleet, Limits, Mark, Member, Need, View};
use tokio::sync::Notify;
use tracing::{info, warn};

use super::connect::{Rows, is_report};
use super::{Front, control, random};
use crate::net::Stream;
use crate::spec::Target;

/// Between two errands of ours at least, whatever happens.
const GAP: Duration = Duration::from_millis(30);
const APPLICATION_NAME: &str = "pgsluice control";
/// Bytes of an application name that PostgreSQL keeps.
const APPLICATION_NAME_LEN: usize = 63;
/// A machine that is gone without a word is not to hold its locks for hours. And what the role's settings say about clients is
/// not for the control connection.
pub(super) const PREPARE: &str = "SELECT pg_catalog.set_config(name, value, false) \
    FROM (VALUES ('tcp_keepalives_idle', '10'), ('tcp_keepalives_interval', '5'), ('tcp_keepalives_count', '3'), \
    ('statement_timeout', '0'), ('lock_timeout', '0'), ('idle_in_transaction_session_timeout', '0'), \
    ('idle_session_timeout', '0')) AS wanted (name, value) \
    WHERE pg_catalog.current_setting(name, true) IS NOT NULL";

/// What the fleet and PostgreSQL look like. `{class}` is the upper half of its locks, `{ours}` our servers' process ids with commas.
const LOOK: &str = include_str!("fleet.sql");

/// Which fleet the configuration puts this instance in.
#[derive(Clone, Debug)]
pub(super) struct Membership {
    pub(super) name: String,
    /// Where control connections meet.
    pub(super) dbname: String,
    /// Ours.
    pub(super) application_name: String,
}

impl Membership {
    pub(super) fn new(name: &str, dbname: &str) -> Self {
        let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
        let pid = std::process::id().to_string();
        let room = APPLICATION_NAME_LEN - APPLICATION_NAME.len() - pid.len() - 2;
        let cut = (0..=room.min(host.len())).rev().find(|&at| host.is_char_boundary(at)).unwrap_or(0);
        let application_name = format!("{APPLICATION_NAME} {}:{pid}", &host[..cut]);
        Self { name: name.into(), dbname: dbname.into(), application_name }
    }

    /// The upper half of the fleet's locks.
    fn class(&self) -> u32 {
        // FNV-1a.
        let text = "pgsluice fleet ".bytes().chain(self.name.bytes());
        text.fold(0x811c_9dc5, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193))
    }
}

/// Our seat in a fleet on one PostgreSQL.
#[derive(Debug)]
pub(super) struct Seat {
    pub(super) membership: Membership,
    pub(super) fleet: Fleet,
    /// When we last looked whether there is an errand.
    last: Instant,
    /// The next is due.
    next: Instant,
    /// Something has happened: see if there is an errand.
    pub(super) call: Rc<Notify>,
    /// Of the members, by their pid: application name, and when they came.
    pub(super) about: HashMap<u32, (String, Option<SystemTime>)>,
    /// Why there can be no fleet here.
    pub(super) hindrance: Option<String>,
    /// We were part of the fleet once.
    has_joined: bool,
    /// Members, when it was said last.
    said: usize,
}

impl Seat {
    pub(super) fn new(membership: Membership) -> Self {
        let now = Instant::now();
        Self {
            membership,
            fleet: Fleet::default(),
            last: now,
            next: now,
            call: Rc::new(Notify::new()),
            about: HashMap::new(),
            hindrance: None,
            has_joined: false,
            said: 0,
        }
    }
}

impl Seat {
    fn rows(&self, server: &str) -> Vec<FleetRow> {
        let Some(view) = self.fleet.view().filter(|_| self.hindrance.is_none()) else { return Vec::new() };
        let entitled = self.fleet.entitlements(Instant::now());
        let row = |(member, entitled): (&Member, u32)| {
            let about = self.about.get(&member.pid);
            let (host, pid) = about.map_or(("", None), |(name, _)| origin(name));
            FleetRow {
                fleet: self.membership.name.clone(),
                server: server.to_owned(),
                host: host.to_owned(),
                pid,
                backend_pid: member.pid,
                tokens: member.slots,
                servers: member.servers,
                wanted: member.wanted,
                entitled,
                since: about.and_then(|(_, since)| *since),
                is_self: member.pid == view.me,
            }
        };
        view.members.iter().zip(entitled).map(row).collect()
    }
}

/// Host and process id of an instance, from the name of its control connection.
fn origin(name: &str) -> (&str, Option<u32>) {
    let name = name.strip_prefix(APPLICATION_NAME).unwrap_or(name).trim();
    match name.rsplit_once(':') {
        Some((host, pid)) if pid.parse::<u32>().is_ok() => (host, pid.parse().ok()),
        _ => (name, None),
    }
}

impl Front {
    /// Waits until an errand may be run: when it is due, or something has happened. For ever, outside a fleet.
    pub(super) async fn errand_due(&self, id: ClusterId) {
        let timing = self.cell.borrow().clusters[id.0].seat.as_ref().map(|s| (s.call.clone(), s.last, s.next));
        let Some((call, last, next)) = timing else { return std::future::pending().await };
        tokio::select! {
            () = tokio::time::sleep_until(next.into()) => {}
            () = call.notified() => tokio::time::sleep_until((last + GAP).into()).await,
        }
    }

    /// Runs what errands there are.
    ///
    /// # Errors
    /// The connection is of no use any more.
    pub(super) async fn run_errands(self: &Rc<Self>, id: ClusterId, stream: &Stream, pid: u32) -> io::Result<()> {
        loop {
            let Some((query, looks)) = self.next_errand(id, pid) else { return Ok(()) };
            match control::ask_in_time(stream, &query).await {
                Ok(rows) if looks => self.end_errand(id, pid, &rows),
                Ok(rows) => self.note_told(id, &rows),
                // Which of its locks were taken is unknown: they go with the connection.
                Err(error) if is_report(&error) && !self.has_joined(id) => {
                    self.hinder(id, &format!("PostgreSQL refuses the locks: {error}"));
                    self.rest(id);
                }
                Err(error) if is_report(&error) => {
                    return Err(io::Error::other(format!("it refuses the fleet's locks: {error}")));
                }
                Err(error) => return Err(error),
            }
            self.pump();
            if !self.cell.borrow().clusters[id.0].seat.as_ref().is_some_and(|s| s.fleet.has_excess()) {
                return Ok(());
            }
            // Others may have found the same.
            let jitter = u32::from(u16::from_ne_bytes(random())) % 40;
            tokio::time::sleep(GAP + Duration::from_millis(jitter.into())).await;
        }
    }

    /// The text of the next errand, and whether it looks at the fleet; none if there is nothing to do and nothing to see.
    fn next_errand(&self, id: ClusterId, pid: u32) -> Option<(String, bool)> {
        let now = Instant::now();
        let mut state = self.cell.borrow_mut();
        let need = state.need(id, now);
        let cluster = &mut state.clusters[id.0];
        let seat = cluster.seat.as_mut()?;
        seat.last = now;
        let errand = seat.fleet.prepare(&need, now);
        let looks = now >= seat.next || errand.needs_view() || seat.fleet.view().is_none();
        let query =
            (looks || !errand.is_empty()).then(|| (question(&seat.membership, pid, &errand, &need, looks), looks));
        state.apply_tokens(id, self.share_without_fleet());
        query
    }

    fn note_told(&self, id: ClusterId, rows: &Rows) {
        let mut state = self.cell.borrow_mut();
        let Some(seat) = state.clusters[id.0].seat.as_mut() else { return };
        let got = rows.iter().filter_map(|row| read_got(row)).collect::<Vec<_>>();
        seat.fleet.note_told(&got);
    }

    fn end_errand(&self, id: ClusterId, pid: u32, rows: &Rows) {
        let now = Instant::now();
        let Some(answer) = read(rows, self.config().settings.budget_headroom) else {
            self.hinder(id, "the answer about its locks is not PostgreSQL's");
            return self.rest(id);
        };
        self.set_limits(id, answer.limits);
        let mut state = self.cell.borrow_mut();
        let Some(seat) = state.clusters[id.0].seat.as_mut() else { return };
        let (me, members) = (answer.view.me, answer.view.members.len());
        seat.fleet.handle(&answer.got, answer.view, now);
        seat.about = answer.about;
        let jitter = 0.75 + f64::from(u16::from_ne_bytes(random())) / f64::from(u16::MAX) / 2.0;
        seat.next = now + if seat.fleet.is_frozen() { GAP } else { seat.fleet.pause().mul_f64(jitter) };
        if me != pid || seat.fleet.is_deceived() {
            drop(state);
            return self.hinder(
                id,
                "the control connection does not reach PostgreSQL itself: a pooler in between keeps no locks",
            );
        }
        seat.has_joined = true;
        if seat.hindrance.take().is_some() || seat.said != members {
            seat.said = members;
            info!(fleet = %seat.membership.name, members = seat.said, "part of a fleet");
        }
        state.apply_tokens(id, self.share_without_fleet());
        state.broker.tick();
    }

    /// There can be no fleet on this PostgreSQL, and we go on with a share that the configuration gives. Who was part of the fleet
    /// before has to do with what it has: the others count on that.
    pub(super) fn hinder(&self, id: ClusterId, why: &str) {
        let share = self.share_without_fleet();
        let mut state = self.cell.borrow_mut();
        let cluster = &mut state.clusters[id.0];
        let Some(seat) = cluster.seat.as_mut() else { return };
        if seat.has_joined {
            return;
        }
        if seat.hindrance.as_deref() != Some(why) {
            warn!(server = %cluster.address, fleet = %seat.membership.name,
                "{why}; falling back to {share} servers (max_server_connections, or default_pool_size without)");
            seat.hindrance = Some(why.to_owned());
        }
        seat.said = 0;
        state.apply_tokens(id, share);
        state.broker.tick();
    }

    fn has_joined(&self, id: ClusterId) -> bool {
        self.cell.borrow().clusters[id.0].seat.as_ref().is_some_and(|seat| seat.has_joined)
    }

    /// The next errand comes when it would have, though the last one failed.
    fn rest(&self, id: ClusterId) {
        let mut state = self.cell.borrow_mut();
        if let Some(seat) = state.clusters[id.0].seat.as_mut() {
            seat.next = Instant::now() + seat.fleet.pause() * 4;
        }
    }

    /// The control connection is gone, and our locks with it.
    pub(super) fn lose_seat(&self, id: ClusterId) {
        let share = self.share_without_fleet();
        let mut state = self.cell.borrow_mut();
        let need = state.need(id, Instant::now());
        if let Some(seat) = state.clusters[id.0].seat.as_mut() {
            seat.fleet.lose(&need);
            if seat.has_joined {
                seat.hindrance = None;
            }
            seat.next = Instant::now();
            seat.about.clear();
        }
        state.apply_tokens(id, share);
    }

    /// Where the tokens of a fleet cannot be had.
    fn share_without_fleet(&self) -> u32 {
        let config = self.config();
        match config.settings.max_server_connections {
            0 => config.settings.default_pool_size,
            most => most,
        }
    }
}

impl super::Cluster {
    /// How its control connection logs in, and under which name.
    pub(super) fn control_login(&self) -> (Target, String) {
        let mut target = self.control.clone();
        let Some(seat) = &self.seat else { return (target, APPLICATION_NAME.into()) };
        target.dbname.clone_from(&seat.membership.dbname);
        (target, seat.membership.application_name.clone())
    }

    /// Why the budget is what it is.
    pub(super) fn fleet_reason(&self) -> String {
        match &self.seat {
            Some(Seat { hindrance: Some(why), .. }) => format!("no fleet: {why}"),
            Some(seat) => format!("tokens of fleet {}, see SHOW FLEET", seat.membership.name),
            None => String::new(),
        }
    }
}

impl super::State {
    fn need(&self, id: ClusterId, now: Instant) -> Need {
        let (open, connecting) = self.broker.cluster_servers(id);
        let servers = self.clusters[id.0].pids.iter().copied().collect();
        Need { wanted: self.broker.wanted(id, now), servers, held: open + connecting }
    }

    fn apply_tokens(&mut self, id: ClusterId, without: u32) {
        let Some(seat) = &self.clusters[id.0].seat else { return };
        let tokens = if seat.hindrance.is_some() { without } else { seat.fleet.allowed() };
        if self.broker.budget(id).tokens() != Some(tokens) {
            self.broker.budget_mut(id).set_tokens(Some(tokens));
        }
    }

    /// While we are cut off, what closes is not opened again; and who has something to tell or to ask for does not wait.
    pub(super) fn watch_seats(&mut self) {
        for index in 0..self.clusters.len() {
            let id = self.clusters[index].id;
            if self.clusters[index].seat.is_none() {
                continue;
            }
            let (open, connecting) = self.broker.cluster_servers(id);
            let held = open + connecting;
            let Some(seat) = self.clusters[index].seat.as_mut() else { continue };
            seat.fleet.limit_frozen(held);
            if seat.hindrance.is_none() {
                let tokens = seat.fleet.allowed();
                if self.broker.budget(id).tokens() != Some(tokens) {
                    self.broker.budget_mut(id).set_tokens(Some(tokens));
                }
            }
        }
    }

    /// The instances of our fleet, as the last errand has shown them.
    pub(super) fn fleet_rows(&self) -> Vec<FleetRow> {
        let seats = self.clusters.iter().filter_map(|c| Some((c, c.seat.as_ref()?)));
        seats.flat_map(|(cluster, seat)| seat.rows(&cluster.address.to_string())).collect()
    }

    /// Somebody waits, or a server has come or gone.
    pub(super) fn call_seat(&self, id: ClusterId) {
        if let Some(seat) = &self.clusters[id.0].seat {
            seat.call.notify_one();
        }
    }
}

/// What is known of a fleet after an errand.
#[derive(Debug, Default)]
struct Answer {
    got: Vec<Mark>,
    view: View,
    limits: Limits,
    about: HashMap<u32, (String, Option<SystemTime>)>,
}

/// The text of an errand: four statements in one Query, so in one round trip and in this order. The last one looks, unless that is
/// not asked for.
fn question(membership: &Membership, pid: u32, errand: &Errand, need: &Need, looks: bool) -> String {
    let class = membership.class();
    // A lock's number: the fleet in the upper half, the mark in the lower.
    let keys = |marks: &[Mark]| {
        let keys = marks.iter().map(|m| (i64::from(class) << 32 | i64::from(m.bits())).to_string());
        format!("'{{{}}}'::pg_catalog.int8[]", keys.collect::<Vec<_>>().join(","))
    };
    let ours = need.servers.iter().map(ToString::to_string).collect::<Vec<_>>().join(",");
    let look = if looks { LOOK } else { "" };
    let look = look.replace("{class}", &class.to_string()).replace("{ours}", &ours);
    // In a session that a pooler lends us, locks would stay behind.
    let direct = format!("pg_catalog.pg_backend_pid() = {pid}");
    let (share, take, drop) = (keys(&errand.share), keys(&errand.take), keys(&errand.drop));
    format!(
        "SELECT 'shared', k FROM pg_catalog.unnest({share}) AS k WHERE \
         CASE WHEN {direct} THEN pg_catalog.pg_try_advisory_lock_shared(k) ELSE false END; \
         SELECT 'got', k & 4294967295 FROM pg_catalog.unnest({take}) AS k WHERE \
         CASE WHEN {direct} THEN pg_catalog.pg_try_advisory_lock(k) ELSE false END; \
         SELECT 'kept', k FROM pg_catalog.unnest({drop}) AS k WHERE NOT (CASE WHEN (k >> 30) & 3 = 1 \
         THEN pg_catalog.pg_advisory_unlock_shared(k) ELSE pg_catalog.pg_advisory_unlock(k) END); \
         {look}"
    )
}

/// A mark that could be taken.
fn read_got(row: &[Option<String>]) -> Option<Mark> {
    match row {
        [Some(kind), Some(bits)] if kind == "got" => Some(Mark::from_bits(bits.parse().ok()?)),
        _ => None,
    }
}

/// What the rows of a [`question`] say; `None` if they are no answer to it.
fn read(rows: &Rows, headroom: u32) -> Option<Answer> {
    let mut answer = Answer::default();
    let mut complete = 0;
    for row in rows {
        let text = |i: usize| row.get(i).and_then(Option::as_deref);
        let number = |i: usize| text(i)?.parse::<u32>().ok();
        match text(0)? {
            "got" => answer.got.push(read_got(row)?),
            "member" => {
                let [pid, slots, wanted, servers] = [number(1)?, number(2)?, number(3)?, number(4)?];
                answer.view.members.push(Member { pid, slots, wanted, servers });
            }
            "about" => {
                let since = text(3).and_then(|s| s.parse().ok()).map(Duration::from_secs);
                let name = text(2).unwrap_or_default().to_owned();
                answer.about.insert(number(1)?, (name, since.map(|since| SystemTime::UNIX_EPOCH + since)));
            }
            "taken" => {
                let taken = text(1).unwrap_or_default().split(',').filter(|n| !n.is_empty());
                answer.view.taken = taken.map(|n| n.parse().ok()).collect::<Option<_>>()?;
            }
            "limits" => {
                let [max_connections, superuser_reserved, reserved, others] =
                    [number(1)?, number(2)?, number(3)?, number(4)?];
                answer.limits = Limits { max_connections, superuser_reserved, reserved, others };
                answer.view.ceiling = max_connections.saturating_sub(superuser_reserved).saturating_sub(reserved);
                complete += 1;
            }
            "now" => {
                (answer.view.me, answer.view.strangers) = (number(1)?, number(2)?);
                answer.view.clock = text(3)?.parse().ok()?;
                complete += 1;
            }
            _ => {}
        }
    }
    answer.view.headroom = headroom;
    answer.view.members.sort_unstable_by_key(|m| m.pid);
    (complete == 2).then_some(answer)
}
