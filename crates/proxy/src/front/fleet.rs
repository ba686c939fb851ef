//! The part of this instance in a fleet, on one PostgreSQL: carries the errands of [`Fleet`] to PostgreSQL over the control
//! connection, where the marks are session advisory locks, and brings back what the fleet looks like.
//!
//! Source: manual, "Advisory Locks", "pg_locks"; an advisory lock belongs to a database.

use std::collections::HashMap;
use std::io;
use std::rc::Rc;
use std::time::{Duration, Instant, SystemTime};

use pgsluice_console::FleetRow;
use pgsluice_pool::{ClusterId, Errand, Fleet, Limits, Mark, Member, Need, PoolId, View};
use tokio::sync::Notify;
use tracing::{info, warn};

use super::connect::{Rows, is_report};
use super::{Front, control, random};
use crate::net::Stream;
use crate::spec::Target;

/// Between two errands of ours at least, whatever happens.
const GAP: Duration = Duration::from_millis(30);
/// Where there can be no fleet, until we look again.
const HINDERED_PAUSE: Duration = Duration::from_secs(10);
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

/// What we are to the fleet.
#[derive(Debug)]
enum Standing {
    /// Nothing yet.
    Applicant,
    /// Nothing, for this reason: we go on with a share that the configuration gives.
    Hindered(String),
    /// Part of it once, and so for good: the others count on our having no more than our locks say.
    Member,
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
    standing: Standing,
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
            standing: Standing::Applicant,
            said: 0,
        }
    }

    fn rows(&self, server: &str) -> Vec<FleetRow> {
        let Some(view) = self.fleet.view().filter(|_| self.is_member()) else { return Vec::new() };
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

    fn is_member(&self) -> bool {
        matches!(self.standing, Standing::Member)
    }

    pub(super) fn is_hindered(&self) -> bool {
        matches!(self.standing, Standing::Hindered(_))
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
            let end = match control::ask_in_time(stream, &query).await {
                Ok(rows) if looks => self.end_errand(id, pid, &rows),
                Ok(rows) => {
                    self.note_told(id, &rows);
                    Ok(())
                }
                Err(error) if is_report(&error) => Err(format!("PostgreSQL refuses the fleet's locks: {error}")),
                Err(error) => return Err(error),
            };
            if let Err(why) = end {
                // Which locks were taken and dropped is unknown: those of a member go with the connection.
                if self.is_member(id) {
                    return Err(io::Error::other(why));
                }
                self.hinder(id, &why);
            }
            self.pump();
            if self.seat(id, |seat| seat.fleet.has_collided()) {
                let jitter = u16::from_ne_bytes(random()) % 40;
                tokio::time::sleep(GAP + Duration::from_millis(jitter.into())).await;
            } else if !self.seat(id, |seat| seat.fleet.has_news()) {
                return Ok(());
            }
        }
    }

    /// Asks our seat, which there is.
    fn seat<T>(&self, id: ClusterId, ask: impl FnOnce(&Seat) -> T) -> T {
        ask(self.cell.borrow().clusters[id.0].seat.as_ref().expect("errands are run in a fleet only"))
    }

    fn is_member(&self, id: ClusterId) -> bool {
        self.seat(id, Seat::is_member)
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

    /// # Errors
    /// Why these rows do not make us part of a fleet.
    fn end_errand(&self, id: ClusterId, pid: u32, rows: &Rows) -> Result<(), String> {
        let now = Instant::now();
        let answer = read(rows, self.config().settings.budget_headroom);
        let answer = answer.ok_or("the answer about the fleet's locks is not PostgreSQL's")?;
        self.set_limits(id, answer.limits);
        let mut state = self.cell.borrow_mut();
        let Some(seat) = state.clusters[id.0].seat.as_mut() else { return Ok(()) };
        let (me, members) = (answer.view.me, answer.view.members.len());
        seat.fleet.handle(&answer.got, answer.view, now);
        seat.about = answer.about;
        let jitter = 0.75 + f64::from(u16::from_ne_bytes(random())) / f64::from(u16::MAX) / 2.0;
        seat.next = now + seat.fleet.pause().mul_f64(jitter);
        if me != pid {
            return Err(
                "the control connection does not reach PostgreSQL itself: a pooler in between keeps no locks".into()
            );
        }
        if seat.fleet.is_deceived() {
            return Err("PostgreSQL does not show the locks of the control connection".into());
        }
        if !seat.is_member() || seat.said != members {
            seat.standing = Standing::Member;
            seat.said = members;
            info!(fleet = %seat.membership.name, members, "part of a fleet");
        }
        state.apply_tokens(id, self.share_without_fleet());
        state.broker.tick();
        Ok(())
    }

    /// There can be no fleet on this PostgreSQL, unless we are part of it already.
    pub(super) fn hinder(&self, id: ClusterId, why: &str) {
        let share = self.share_without_fleet();
        let mut state = self.cell.borrow_mut();
        let cluster = &mut state.clusters[id.0];
        let Some(seat) = cluster.seat.as_mut().filter(|seat| !seat.is_member()) else { return };
        if !matches!(&seat.standing, Standing::Hindered(known) if known == why) {
            warn!(server = %cluster.address, fleet = %seat.membership.name,
                "{why}; falling back to {share} servers (max_server_connections, or default_pool_size without)");
            seat.standing = Standing::Hindered(why.to_owned());
        }
        seat.next = Instant::now() + HINDERED_PAUSE;
        state.apply_tokens(id, share);
        state.broker.tick();
    }

    /// The control connection is gone, and our locks with it.
    pub(super) fn lose_seat(&self, id: ClusterId) {
        let mut state = self.cell.borrow_mut();
        let now = Instant::now();
        let need = state.need(id, now);
        if let Some(seat) = state.clusters[id.0].seat.as_mut() {
            seat.fleet.lose(&need, now);
            seat.next = now;
            seat.about.clear();
        }
        state.apply_tokens(id, self.share_without_fleet());
    }

    /// Before anything is planned.
    pub(super) fn watch_seats(&self) {
        if self.membership.is_some() {
            let share = self.share_without_fleet();
            let mut state = self.cell.borrow_mut();
            (0..state.clusters.len()).for_each(|index| state.watch_seat(ClusterId(index), share));
        }
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
            Some(Seat { standing: Standing::Hindered(why), .. }) => format!("no fleet: {why}"),
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

    fn apply_tokens(&mut self, id: ClusterId, share: u32) {
        let Some(seat) = &self.clusters[id.0].seat else { return };
        let before = *self.broker.budget(id);
        let mut budget = before;
        match seat.standing {
            Standing::Hindered(_) => budget.set_share(share),
            Standing::Applicant | Standing::Member => budget.set_tokens(seat.fleet.allowed()),
        }
        if budget != before {
            *self.broker.budget_mut(id) = budget;
        }
    }

    /// While we are cut off, what closes is not opened again.
    fn watch_seat(&mut self, id: ClusterId, share: u32) {
        let (open, connecting) = self.broker.cluster_servers(id);
        if let Some(seat) = self.clusters[id.0].seat.as_mut() {
            seat.fleet.limit_frozen(open + connecting);
        }
        self.apply_tokens(id, share);
    }

    /// The instances of our fleet, as the last errand has shown them.
    pub(super) fn fleet_rows(&self) -> Vec<FleetRow> {
        let seats = self.clusters.iter().filter_map(|c| Some((c, c.seat.as_ref()?)));
        seats.flat_map(|(cluster, seat)| seat.rows(&cluster.address.to_string())).collect()
    }

    /// Somebody waits, or a server has come or gone.
    pub(super) fn call_seat(&mut self, pool: PoolId) {
        if let Some(seat) = &self.cluster_of(pool).seat {
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
