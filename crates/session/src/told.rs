//! What a client has been told of its parameters, and what is news to it.

use std::sync::Arc;

use pgsluice_wire::BackendWriter;

use crate::Ctx;
use crate::error::Violation;
use crate::frontend::Session;
use crate::params::Params;
use crate::server::Server;
use crate::settings::is_settable;
use crate::statement::Registry;

impl Session {
    /// Did the startup message leave this parameter alone?
    pub(crate) fn is_default(&self, name: &str) -> bool {
        is_settable(name) && self.base.get(name).is_none()
    }

    /// The client is let in, and told these parameters.
    pub fn welcome(&mut self, params: Arc<Params>) {
        self.told = Some((params.clone(), params));
    }

    /// The client is being told a parameter of its server's.
    pub(crate) fn note_told(&mut self, name: &str, value: &str, registry: &mut Registry) -> Result<(), Violation> {
        if let Some((_, told)) = &mut self.told {
            *told = registry.intern_params(&Arc::new(told.with(name, value)?));
        }
        Ok(())
    }

    /// The server's parameters, where they are not what the client believes: its server, brought to the client's settings,
    /// says otherwise than the last one did.
    pub(crate) fn tell_news(&mut self, server: &mut Server, ctx: &mut Ctx<'_>) {
        let Some((_, told)) = &mut self.told else { return };
        if Arc::ptr_eq(told, &server.params) {
            return;
        }
        server.params = ctx.registry.intern_params(&server.params);
        for (name, value) in server.params.news(told) {
            BackendWriter(&mut ctx.plan.reply).parameter_status(name.as_bytes(), value.as_bytes());
        }
        told.clone_from(&server.params);
    }

    /// DISCARD ALL changed a reported parameter to the server's `value`. What the startup message set is the client's own
    /// default, and is replayed before anything of its runs: it is told that.
    pub(crate) fn tell_discarded(&mut self, name: &str, value: &str, ctx: &mut Ctx<'_>) -> Result<(), Violation> {
        let Some((welcome, told)) = &mut self.told else { return Ok(()) };
        let own = self.base.get(name).and_then(|_| welcome.get(name));
        let value = own.unwrap_or(value);
        if told.get(name) != Some(value) {
            ctx.plan.insert(|out| BackendWriter(out).parameter_status(name.as_bytes(), value.as_bytes()));
            *told = ctx.registry.intern_params(&Arc::new(told.with(name, value)?));
        }
        Ok(())
    }

    /// DISCARD ALL ran, and nothing was set behind it. What the startup message set is back, also where the server had
    /// nothing to report.
    pub(crate) fn tell_base(&mut self, ctx: &mut Ctx<'_>) -> Result<(), Violation> {
        let Some((welcome, _)) = &self.told else { return Ok(()) };
        let (welcome, base) = (welcome.clone(), self.base.clone());
        for (name, _) in base.iter() {
            // As it is spelt when it is reported.
            if let Some((name, value)) = welcome.iter().find(|(reported, _)| reported.eq_ignore_ascii_case(name)) {
                self.tell_discarded(name, value, ctx)?;
            }
        }
        Ok(())
    }
}
