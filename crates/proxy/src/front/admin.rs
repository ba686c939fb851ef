//! Console sessions, and what their commands do.

use std::rc::Rc;

use pgsluice_config::RESERVED_DATABASES;
use pgsluice_console::{Access, Command, Console, Failure, ShutdownMode, Want};
use pgsluice_pool::PoolId;
use pgsluice_wire::{BackendWriter, TxStatus};
use tokio::sync::oneshot;
use tracing::info;

use super::{Count, Front};
use crate::message::{Drain, ToWorker};
use crate::net::Stream;
use crate::random;

/// Bytes read from a console client at once.
const READ_LEN: usize = 16 << 10;

impl Front {
    pub(super) async fn serve_console(self: Rc<Self>, stream: Stream, access: Access, early: Vec<u8>, late: Vec<u8>) {
        let _count = Count::begin(&self, |state| &mut state.consoles);
        self.talk(&stream, access, early, late).await;
        stream.say_goodbye();
    }

    async fn talk(self: &Rc<Self>, stream: &Stream, access: Access, early: Vec<u8>, late: Vec<u8>) {
        let mut console = Console::new(access);
        console.outbox().extend(late);
        console.welcome();
        let mut writer = BackendWriter(console.outbox());
        writer.key_data(u32::from_ne_bytes(random()) >> 1, &random::<4>());
        writer.ready(TxStatus::Idle);
        let mut inbox = early;
        loop {
            let taken = console.handle_client(&inbox);
            inbox.drain(..taken);
            let out = std::mem::take(console.outbox());
            if stream.write_all(&out).await.is_err() {
                return;
            }
            match console.poll_want() {
                Some(Want::Close) => return,
                Some(Want::Snapshot(subject)) => console.handle_snapshot(&self.show(subject).await),
                Some(Want::Run(command)) => {
                    let Some(outcome) = self.run_watched(stream, &mut inbox, command).await else { return };
                    console.handle_outcome(outcome);
                }
                None if taken > 0 || !out.is_empty() => {}
                None => match stream.read_some(&mut inbox, READ_LEN).await {
                    Ok(0) | Err(_) => return,
                    Ok(_) => {}
                },
            }
        }
    }

    /// Runs a command that may take its time; `None` if the client hung up meanwhile, which ends a PAUSE.
    async fn run_watched(
        self: &Rc<Self>,
        stream: &Stream,
        inbox: &mut Vec<u8>,
        command: Command,
    ) -> Option<Result<(), Failure>> {
        let paused = matches!(command, Command::Pause(_)).then(|| command.clone());
        let running = self.run_command(command);
        tokio::pin!(running);
        loop {
            tokio::select! {
                outcome = &mut running => return Some(outcome),
                read = stream.read_some(inbox, READ_LEN), if inbox.len() < READ_LEN => {
                    if matches!(read, Ok(0) | Err(_)) {
                        if let Some(Command::Pause(database)) = paused {
                            let _ = self.resume(database);
                        }
                        return None;
                    }
                }
            }
        }
    }

    async fn run_command(self: &Rc<Self>, command: Command) -> Result<(), Failure> {
        info!("console: {}", command.tag());
        match command {
            Command::Set { key, value } => self.set(&key, &value),
            Command::Reload => self.reload().map_err(|problems| {
                tracing::error!("reload failed, nothing was changed: {problems}");
                Failure::Reload(problems.to_string())
            }),
            Command::Pause(database) => self.pause(database).await,
            Command::Resume(database) => self.resume(database),
            Command::Reconnect(database) => self.reconnect(database),
            Command::Kill(database) => self.kill(database),
            Command::KillClient(id) => self.kill_client(id).await,
            Command::Disable(database) => {
                self.check_database("disable", Some(&database))?;
                self.reception.book().disabled.insert(database);
                Ok(())
            }
            Command::Enable(database) => {
                self.check_database("enable", Some(&database))?;
                self.reception.book().disabled.remove(&database);
                Ok(())
            }
            Command::WaitClose(database) => {
                self.check_database("wait_close", database.as_deref())?;
                self.ask_all(|done| ToWorker::WaitClose { database: database.clone(), done }).await;
                Ok(())
            }
            Command::Shutdown(mode) => {
                match mode {
                    ShutdownMode::Immediate => self.shutdown.end(),
                    ShutdownMode::WaitForServers => self.clone().begin_drain(Drain::Servers),
                    ShutdownMode::WaitForClients => self.clone().begin_drain(Drain::Clients),
                }
                Ok(())
            }
            // Everything else the console answers by itself.
            _ => Ok(()),
        }
    }

    fn check_database(&self, verb: &'static str, database: Option<&str>) -> Result<(), Failure> {
        let Some(name) = database else { return Ok(()) };
        if RESERVED_DATABASES.contains(&name) {
            return Err(Failure::AdminDatabase { verb, database: name.into() });
        }
        let in_use = self.reception.book().pools.keys().any(|(database, ..)| database == name);
        match self.config().databases.contains_key(name) || in_use {
            true => Ok(()),
            false => Err(Failure::NoSuchDatabase(name.into())),
        }
    }

    fn set(self: &Rc<Self>, key: &str, value: &str) -> Result<(), Failure> {
        let mut config = (*self.config()).clone();
        let fixed = config.rows().iter().any(|row| row.key == key && !row.changeable);
        if fixed {
            return Err(Failure::Set(format!("{key} cannot be changed while running")));
        }
        config.settings.set(key, value).map_err(|problem| Failure::Set(problem.to_string()))?;
        config.check().map_err(|problems| Failure::Set(problems.to_string()))?;
        self.apply(config).map_err(|problems| Failure::Set(problems.to_string()))
    }

    /// Waits for every worker's answer.
    async fn ask_all(&self, message: impl Fn(oneshot::Sender<()>) -> ToWorker) {
        let answers: Vec<_> = (0..self.reception.workers())
            .map(|worker| {
                let (done, answer) = oneshot::channel();
                self.tell(worker, message(done));
                answer
            })
            .collect();
        for answer in answers {
            let _ = answer.await;
        }
    }

    async fn pause(self: &Rc<Self>, database: Option<String>) -> Result<(), Failure> {
        self.check_database("pause", database.as_deref())?;
        if self.shutdown.is_begun() {
            return Err(Failure::ShuttingDown);
        }
        self.mark_paused(database.as_deref())?;
        self.ask_all(|done| ToWorker::Pause { database: database.clone(), done }).await;
        Ok(())
    }

    fn mark_paused(&self, database: Option<&str>) -> Result<(), Failure> {
        let mut state = self.cell.borrow_mut();
        let new = match database {
            None => !std::mem::replace(&mut state.paused_all, true),
            Some(name) => !state.paused_all && state.paused.insert(name.into()),
        };
        // What is paused is not refilled.
        self.set_minimums(&mut state);
        if new { Ok(()) } else { Err(Failure::AlreadyPaused) }
    }

    /// As [`super::State::set_minimum`], for all.
    pub(super) fn set_minimums(&self, state: &mut super::State) {
        (0..state.pools.len()).for_each(|index| state.set_minimum(PoolId(index)));
    }

    fn resume(self: &Rc<Self>, database: Option<String>) -> Result<(), Failure> {
        self.check_database("resume", database.as_deref())?;
        if self.shutdown.is_begun() {
            return Err(Failure::ShuttingDown);
        }
        let mut state = self.cell.borrow_mut();
        match &database {
            None if !state.paused_all && state.paused.is_empty() => return Err(Failure::NotPaused),
            None => {
                state.paused_all = false;
                state.paused.clear();
            }
            Some(name) if !state.paused.remove(name) => return Err(Failure::DatabaseNotPaused(name.clone())),
            Some(_) => {}
        }
        self.set_minimums(&mut state);
        drop(state);
        self.tell_all(|| ToWorker::Resume { database: database.clone() });
        self.pump();
        Ok(())
    }

    fn reconnect(self: &Rc<Self>, database: Option<String>) -> Result<(), Failure> {
        self.check_database("reconnect", database.as_deref())?;
        self.bump_epochs(database.as_deref());
        Ok(())
    }

    /// Servers open now are obsolete.
    fn bump_epochs(&self, database: Option<&str>) {
        let mut state = self.cell.borrow_mut();
        for entry in state.pools.iter_mut().filter(|p| database.is_none_or(|name| name == p.spec.database)) {
            entry.epoch += 1;
            let (spec, epoch) = (entry.spec.clone(), entry.epoch);
            self.tell_all(|| ToWorker::Pool { spec: spec.clone(), epoch });
        }
    }

    fn kill(self: &Rc<Self>, database: Option<String>) -> Result<(), Failure> {
        self.check_database("kill", database.as_deref())?;
        // A database that is paused already is killed all the same.
        let _ = self.mark_paused(database.as_deref());
        self.bump_epochs(database.as_deref());
        self.tell_all(|| ToWorker::Kill { database: database.clone() });
        Ok(())
    }

    async fn kill_client(&self, id: u64) -> Result<(), Failure> {
        for worker in 0..self.reception.workers() {
            let (found, answer) = oneshot::channel();
            self.tell(worker, ToWorker::KillClient { id, found });
            if answer.await.unwrap_or(false) {
                return Ok(());
            }
        }
        Err(Failure::ClientNotFound)
    }
}
