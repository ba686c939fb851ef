//! The first word to a client: the parameters that PostgreSQL would have reported, under the client's own settings.

use pgsluice_session::Params;
use pgsluice_wire::{BackendWriter, TxStatus};
use std::sync::Arc;

use super::end::End;
use super::{Block, Client, Phase};
use crate::worker::conn::Linked;
use crate::worker::{State, WELCOMES_MAX};

/// Longest application_name, in bytes; PostgreSQL's `NAMEDATALEN` less one.
const APPLICATION_NAME_MAX: usize = 63;

/// Bytes that are told to nearly all, at most.
const WELCOME_LEN: usize = 640;

impl Client {
    /// Tells the client what PostgreSQL would have: from memory, or from a server that was brought to its settings.
    pub(super) fn welcome(&mut self, state: &mut State) -> Result<(), End> {
        let settings = self.session.settings().clone();
        let name = settings.get("application_name").filter(|n| is_plain(n)).map(str::to_owned);
        // One entry for all names, and none of them for a client that gave no name.
        let key = if name.is_some() { settings.with("application_name", "") } else { (*settings).clone() };
        if let Some(params) = state.pool(self.pool).welcomes.get(&key) {
            let params = params.clone();
            return self.open(state, params, name.as_deref());
        }
        let Some(Linked { conn, server }) = &mut self.link else {
            return if self.checkout(state)? { self.welcome(state) } else { Ok(()) };
        };
        if !server.is_replaying() && !Arc::ptr_eq(server.settings(), &settings) {
            self.session.replay(server, conn.outbox.tail());
        }
        if server.is_replaying() {
            self.block = Block::Server;
            return Ok(());
        }
        let params = state.registry.intern_params(server.params());
        let welcomes = &mut state.pool(self.pool).welcomes;
        if welcomes.len() >= WELCOMES_MAX {
            welcomes.clear();
        }
        welcomes.insert(key, params.clone());
        self.open(state, params, name.as_deref())
    }

    fn open(&mut self, state: &mut State, mut params: Arc<Params>, name: Option<&str>) -> Result<(), End> {
        let named = name.filter(|_| params.get("application_name").is_some());
        if let Some(Ok(own)) = named.map(|name| params.with("application_name", name)) {
            params = state.registry.intern_params(&Arc::new(own));
        }
        let out = self.outbox.tail();
        out.reserve(WELCOME_LEN);
        for (param, value) in params.iter() {
            BackendWriter(out).parameter_status(param.as_bytes(), value.as_bytes());
        }
        BackendWriter(out).key_data(self.slot.pid, &self.slot.secret);
        BackendWriter(out).ready(TxStatus::Idle);
        self.session.welcome(params);
        self.phase = Phase::Open;
        self.hold = false;
        self.block = Block::None;
        self.release_if_done(state);
        self.process_inbox(state)
    }
}

/// Would PostgreSQL report this application_name as it is?
fn is_plain(name: &str) -> bool {
    name.len() <= APPLICATION_NAME_MAX && name.bytes().all(|b| (b' '..=b'~').contains(&b))
}
