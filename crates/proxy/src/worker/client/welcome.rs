//! The first word to a client: the parameters that PostgreSQL would have reported, under the client's own settings.

use pgsluice_session::Params;
use pgsluice_wire::{BackendWriter, TxStatus};
use std::rc::Rc;
use std::sync::Arc;

use super::end::End;
use super::{Block, Client, Phase};
use crate::worker::conn::Linked;
use crate::worker::{State, WELCOMES_MAX};

/// Longest application_name, in bytes; PostgreSQL's `NAMEDATALEN` less one.
const APPLICATION_NAME_MAX: usize = 63;

/// The parameter that differs from client to client.
const APPLICATION_NAME: &str = "application_name";
/// Bytes that are a client's own in what it is told at first, mostly: its key, its name.
const OWN_LEN: usize = 128;

/// What all clients with the same startup settings are told, but for their application_name.
#[derive(Debug)]
pub(in crate::worker) struct Welcome {
    params: Arc<Params>,
    /// As messages, without application_name.
    told: Box<[u8]>,
}

impl Welcome {
    fn new(params: Arc<Params>) -> Self {
        let mut told = Vec::new();
        for (name, value) in params.iter().filter(|(name, _)| *name != APPLICATION_NAME) {
            BackendWriter(&mut told).parameter_status(name.as_bytes(), value.as_bytes());
        }
        Self { params, told: told.into() }
    }
}

impl Client {
    /// Tells the client what PostgreSQL would have: from memory, or from a server that was brought to its settings.
    pub(super) fn welcome(&mut self, state: &mut State) -> Result<(), End> {
        let settings = self.session.settings().clone();
        let name = settings.get(APPLICATION_NAME).filter(|n| is_plain(n)).map(str::to_owned);
        // One entry for all names, and none of them for a client that gave no name.
        let key = if name.is_some() { settings.with(APPLICATION_NAME, "") } else { (*settings).clone() };
        if let Some(welcome) = state.pool(self.pool).welcomes.get(&key) {
            let welcome = welcome.clone();
            return self.open(state, &welcome, name.as_deref());
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
        let welcome = Rc::new(Welcome::new(state.registry.intern_params(server.params())));
        let welcomes = &mut state.pool(self.pool).welcomes;
        if welcomes.len() >= WELCOMES_MAX {
            welcomes.clear();
        }
        welcomes.insert(key, welcome.clone());
        self.open(state, &welcome, name.as_deref())
    }

    fn open(&mut self, state: &mut State, welcome: &Welcome, name: Option<&str>) -> Result<(), End> {
        let mut params = welcome.params.clone();
        let named = name.filter(|_| params.get(APPLICATION_NAME).is_some());
        if let Some(Ok(own)) = named.map(|name| params.with(APPLICATION_NAME, name)) {
            params = state.registry.intern_params(&Arc::new(own));
        }
        let out = self.outbox.tail();
        out.reserve(welcome.told.len() + OWN_LEN);
        if let Some(name) = params.get(APPLICATION_NAME) {
            BackendWriter(out).parameter_status(APPLICATION_NAME.as_bytes(), name.as_bytes());
        }
        out.extend_from_slice(&welcome.told);
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
