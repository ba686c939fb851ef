//! What a server sends, matched against what it owes.

use std::sync::Arc;

use pgsluice_sql::Effects;
use pgsluice_wire::{
    BackendWriter, CommandComplete, HEAD_LEN, Head, ParameterStatus, Report, Severity, TxStatus, field, ready_status,
    sqlstate, tag::backend,
};

use crate::audit::AUDIT_ROW_MAX;
use crate::error::Refusal;
use crate::follow::changes_catalog;
use crate::frontend::Session;
use crate::ledger::Owed;
use crate::params::PARAMS_BYTES_MAX;
use crate::plan::Plan;
use crate::server::{Guard, NOBODYS, Rest, Server};
use crate::settings::is_settable;
use crate::{Ctx, Violation};

/// Longest ParameterStatus or CommandComplete that is believed, in bytes.
const VIEW_MAX: usize = 1 << 20;
/// Longest ErrorResponse that is looked into, in bytes; longer ones pass unread.
const REPORT_VIEW_MAX: usize = 1 << 16;
/// Longest NotificationResponse that is looked into, in bytes; PostgreSQL's are below 8,100.
const NOTIFICATION_VIEW_MAX: usize = 1 << 14;

/// Entries of a replay in the ledger.
const BEGIN_AND_REPLAY: usize = 2;

impl Server {
    /// Reads what the server sent; `session` is its client's, if it has one. Returns the bytes consumed: what is left is
    /// the beginning of a message that has to be read whole.
    pub(crate) fn handle_input(
        &mut self,
        mut session: Option<&mut Session>,
        input: &[u8],
        ctx: &mut Ctx<'_>,
    ) -> Result<usize, Violation> {
        let mut at = self.take_rest(input, ctx.plan);
        self.settle(ctx.plan);
        while !self.is_refused()
            && let Some(head) = Head::read(&input[at..])?
        {
            let asked = self.audit.is_some() || self.catalog_rows.is_some();
            let audited = asked && self.ledger.is_front_ours();
            if audited || !matches!(head.tag, backend::DATA_ROW | backend::COPY_DATA) {
                let Some(body) = self.view(head, &input[at..])? else { break };
                if self.handle_message(session.as_deref_mut(), head, body, ctx)? {
                    at = self.pass(at, head, true, input.len(), ctx.plan);
                } else {
                    at = self.pass(at, head, false, input.len(), ctx.plan);
                }
                self.settle(ctx.plan);
                continue;
            }
            let Some(front) = self.ledger.front() else { return Err(self.not_owed(head.tag)) };
            let shown = session.is_some() && !front.is_hidden();
            at = self.pass(at, head, shown, input.len(), ctx.plan);
        }
        Ok(at)
    }

    fn not_owed(&self, tag: u8) -> Violation {
        Violation::NotOwed { tag, owed: self.ledger.len() }
    }

    fn take_rest(&mut self, input: &[u8], plan: &mut Plan) -> usize {
        let n = self.rest.left.min(input.len());
        if self.rest.shown {
            plan.forward(0..n);
        }
        self.rest.left -= n;
        n
    }

    /// The message at `at` goes to the client, or nowhere; returns where the next one begins.
    fn pass(&mut self, at: usize, head: Head, shown: bool, len: usize, plan: &mut Plan) -> usize {
        let end = at + head.total();
        let stop = end.min(len);
        if shown {
            plan.forward(at..stop);
        }
        self.rest = Rest { left: end - stop, shown };
        stop
    }

    /// The body as far as it has to be read: `None` while it is incomplete, empty for messages that pass unread.
    fn view<'a>(&self, head: Head, bytes: &'a [u8]) -> Result<Option<&'a [u8]>, Violation> {
        let whole = match head.tag {
            backend::COMMAND_COMPLETE | backend::READY_FOR_QUERY | backend::PARAMETER_STATUS => {
                if head.total() > VIEW_MAX {
                    return Err(Violation::TooLong { message: "CommandComplete or ParameterStatus", max: VIEW_MAX });
                }
                true
            }
            backend::ERROR_RESPONSE => head.total() <= REPORT_VIEW_MAX,
            backend::DATA_ROW => head.total() <= AUDIT_ROW_MAX,
            backend::NOTIFICATION_RESPONSE => head.total() <= NOTIFICATION_VIEW_MAX,
            backend::ROW_DESCRIPTION => head.total() <= VIEW_MAX && self.is_shape_wanted(),
            _ => false,
        };
        Ok(if whole { bytes.get(HEAD_LEN..head.total()) } else { Some(&[]) })
    }

    /// Is the RowDescription that comes next one of a statement that clients may know?
    fn is_shape_wanted(&self) -> bool {
        match self.ledger.front() {
            Some(Owed::DescribeStatement(Some(named))) => named.statement.shape().is_none(),
            Some(Owed::DescribePortal(Some(statement))) => statement.shape().is_none(),
            Some(Owed::HiddenDescribe(_)) => true,
            _ => false,
        }
    }

    /// Takes note of one message. Is it for the client?
    fn handle_message(
        &mut self,
        session: Option<&mut Session>,
        head: Head,
        body: &[u8],
        ctx: &mut Ctx<'_>,
    ) -> Result<bool, Violation> {
        let linked = session.is_some();
        match head.tag {
            backend::READY_FOR_QUERY => self.handle_ready(session, body, ctx),
            backend::COMMAND_COMPLETE => {
                let tag = CommandComplete::read(body)?.tag;
                if tag.starts_with(b"ALTER ") {
                    ctx.registry.retire_all();
                }
                self.handle_command_tag(session, tag);
                self.copy_synced = false;
                self.end_execute(head.tag).map(|shown| shown && linked)
            }
            backend::EMPTY_QUERY_RESPONSE | backend::PORTAL_SUSPENDED => {
                self.end_execute(head.tag).map(|shown| shown && linked)
            }
            backend::ERROR_RESPONSE => Ok(self.handle_error(session, body, ctx)),
            backend::PARAMETER_STATUS => self.handle_parameter(session, ParameterStatus::read(body)?, ctx),
            backend::DATA_ROW => {
                self.take_audit_row(body);
                self.take_catalog_row(body);
                Ok(false)
            }
            backend::NOTICE_RESPONSE => Ok(linked && self.ledger.front().is_none_or(|owed| !owed.is_hidden())),
            backend::NOTIFICATION_RESPONSE => Ok(self.handle_notification(session, body)),
            tag => {
                match tag {
                    backend::ROW_DESCRIPTION if !body.is_empty() => self.note_shape(Some(body), ctx),
                    backend::NO_DATA => self.note_shape(None, ctx),
                    _ => {}
                }
                self.handle_answer(session, tag).map(|shown| shown && linked)
            }
        }
    }

    /// Messages that answer an entry of their own kind.
    fn handle_answer(&mut self, session: Option<&mut Session>, tag: u8) -> Result<bool, Violation> {
        let Some(front) = self.ledger.front() else { return Err(self.not_owed(tag)) };
        let shown = !front.is_hidden();
        let (owed, ends) = match tag {
            backend::PARSE_COMPLETE => {
                let fits = matches!(
                    front,
                    Owed::Parse { .. }
                        | Owed::ParseUnnamed(_)
                        | Owed::ParsePassed
                        | Owed::ParseAgain { .. }
                        | Owed::ParseTaken { .. }
                        | Owed::HiddenParse(_)
                );
                (fits, true)
            }
            backend::BIND_COMPLETE => (matches!(front, Owed::Bind(_) | Owed::HiddenBind), true),
            backend::CLOSE_COMPLETE => (
                matches!(front, Owed::Close(_) | Owed::CloseUnnamed(_) | Owed::HiddenClose(_) | Owed::HiddenCloseAgain),
                true,
            ),
            backend::PARAMETER_DESCRIPTION => {
                (matches!(front, Owed::DescribeStatement(_) | Owed::HiddenDescribe(_)), false)
            }
            backend::NO_DATA => {
                (matches!(front, Owed::DescribeStatement(_) | Owed::DescribePortal(_) | Owed::HiddenDescribe(_)), true)
            }
            backend::ROW_DESCRIPTION => {
                let described =
                    matches!(front, Owed::DescribeStatement(_) | Owed::DescribePortal(_) | Owed::HiddenDescribe(_));
                (described || matches!(front, Owed::Query(_) | Owed::HiddenQuery | Owed::HiddenListen), described)
            }
            backend::COPY_IN_RESPONSE if matches!(front, Owed::Query(_) | Owed::Execute) => {
                let (synced, syncs) = self.ledger.begin_copy_in();
                self.copy_synced = synced;
                (self.copying_in, self.copy_syncs) = (syncs.is_some(), syncs.unwrap_or(0));
                (true, false)
            }
            backend::COPY_OUT_RESPONSE | backend::COPY_DONE => (matches!(front, Owed::Query(_) | Owed::Execute), false),
            backend::FUNCTION_CALL_RESPONSE => (matches!(front, Owed::FunctionCall), false),
            _ => (false, false),
        };
        if !owed {
            return Err(self.not_owed(tag));
        }
        if ends && let Some(Owed::ParseTaken { old, statement }) = self.ledger.pop() {
            // PostgreSQL took a name it was to refuse (SQL deallocated it): what this server has under our name for the
            // old statement is the new one.
            self.set_close_needed();
            if let Some(session) = session {
                session.rename(old.name, statement);
            }
        }
        Ok(shown)
    }

    /// CommandComplete and its like end an Execute, and are one of several in a Query.
    fn end_execute(&mut self, tag: u8) -> Result<bool, Violation> {
        match self.ledger.front() {
            Some(Owed::Execute | Owed::ExecuteDeallocate { .. } | Owed::HiddenExecute) => {
                let hidden = self.ledger.pop().is_some_and(|owed| owed.is_hidden());
                if hidden {
                    self.end_audit_rows();
                }
                Ok(!hidden)
            }
            Some(owed) if owed.is_whole_cycle() => Ok(!owed.is_hidden()),
            _ => Err(self.not_owed(tag)),
        }
    }

    fn handle_ready(
        &mut self,
        mut session: Option<&mut Session>,
        body: &[u8],
        ctx: &mut Ctx<'_>,
    ) -> Result<bool, Violation> {
        let status = ready_status(body)?;
        let linked = session.is_some();
        let followed = session.as_ref().is_some_and(|session| session.is_followed());
        if !self.ledger.front().is_some_and(Owed::ends_with_ready) {
            return Err(self.not_owed(backend::READY_FOR_QUERY));
        }
        let owed = self.ledger.pop();
        let hidden = owed.as_ref().is_some_and(Owed::is_hidden);
        self.hidden_cycles -= usize::from(hidden);
        if self.hidden_cycles == 0 {
            self.guard = Guard::Shut;
        }
        if !matches!(owed, Some(Owed::HiddenBegin)) {
            self.tx = status;
        }
        if std::mem::take(&mut self.discarded)
            && !self.set_since_discard
            && !hidden
            && let Some(session) = session.as_deref_mut()
        {
            session.tell_base(ctx)?;
        }
        self.set_since_discard = false;
        (self.copying_in, self.copy_synced) = (false, false);
        self.ready = self.ledger.is_empty();
        if hidden
            && self.ready
            && self.audit.is_some()
            && let Some(session) = session.as_deref_mut()
        {
            session.take_audit(self, ctx);
        }
        if status == TxStatus::Idle && !Arc::ptr_eq(&self.params, &self.quiet_params) {
            if !hidden && self.params != self.quiet_params {
                self.touched |= Effects::SETTINGS;
            }
            self.quiet_params = self.params.clone();
        }
        if !hidden && status == TxStatus::Idle && self.touched.contains(Effects::LOAD) {
            // No query shows it, and no command removes it.
            self.touched = self.touched.without(Effects::LOAD);
            self.loaded |= followed;
        }
        if !hidden
            && status == TxStatus::Idle
            && let Some(session) = session.filter(|session| session.is_followed())
        {
            session.note_loaded(self, ctx);
            session.note_sequence_use(self, ctx);
            session.in_batch = false;
            ctx.plan.insert(|out| {
                session.tell_pending(out);
            });
        }
        if !hidden {
            self.unheard |= followed && status == TxStatus::Idle && !self.touched.parts().is_empty();
            ctx.counters.queries += 1;
            ctx.counters.xacts += u64::from(status == TxStatus::Idle);
        }
        Ok(linked && !hidden)
    }

    /// A changed parameter: the client's own doing if one is linked, otherwise the server's.
    fn handle_parameter(
        &mut self,
        session: Option<&mut Session>,
        report: ParameterStatus<'_>,
        ctx: &mut Ctx<'_>,
    ) -> Result<bool, Violation> {
        let (Ok(name), Ok(value)) = (std::str::from_utf8(report.name), std::str::from_utf8(report.value)) else {
            self.residue |= Effects::SETTINGS;
            return Ok(session.is_some());
        };
        Arc::make_mut(&mut self.params).set(name, value)?;
        let Some(session) = session else {
            // What changed at the bidding of a client that has gone is nobody's.
            if self.ledger.front().is_some_and(|owed| !owed.is_hidden()) {
                self.residue |= Effects::SETTINGS;
            }
            return Ok(false);
        };
        if self.ledger.front().is_some_and(Owed::is_hidden) {
            return Ok(false);
        }
        if self.discarded {
            // DISCARD ALL put the server's defaults back; the client's own are replayed before its next message.
            if self.set_since_discard && !session.is_followed() && session.is_default(name) {
                Arc::make_mut(&mut session.settings).set(name, value);
            }
            session.tell_discarded(name, value, ctx)?;
            return Ok(false);
        }
        if session.is_followed() {
            // An audit will tell.
            if self.reset && self.login_params.get(name) == Some(value) {
                // The server's default is not the client's own.
                session.tell_discarded(name, value, ctx)?;
                return Ok(false);
            }
            session.note_told(name, value, ctx.registry)?;
            return Ok(true);
        }
        session.note_told(name, value, ctx.registry)?;
        if is_settable(name) {
            // Let go first, or the session's would be copied.
            self.settings = Arc::default();
            let settings = Arc::make_mut(&mut session.settings);
            settings.set(name, value);
            if settings.bytes() > PARAMS_BYTES_MAX {
                return Err(Violation::TooManyParameters);
            }
            self.settings = session.settings.clone();
        } else {
            // Another role than the one that logged in, however it came to be.
            self.residue |= Effects::SETTINGS;
        }
        Ok(true)
    }

    /// What a command tag says about the state of the server's session. Where state is followed, what tags cannot say
    /// right (SET may be SET LOCAL) has been read in the text.
    fn handle_command_tag(&mut self, session: Option<&mut Session>, tag: &[u8]) {
        let ours = self.ledger.front().is_some_and(Owed::is_hidden);
        let followed = session.as_ref().is_some_and(|session| session.is_followed());
        if self.discarded && !ours {
            // In one batch with DISCARD ALL: which of them changed what is reported at the end is not known.
            self.leave(Effects::SETTINGS, followed);
        }
        let temporary = tag == b"CREATE TABLE" && self.touched.contains(Effects::TEMP);
        self.catalog_changed |= followed && !temporary && changes_catalog(tag);
        self.reset |= followed && !ours && matches!(tag, b"RESET" | b"DISCARD ALL");
        match tag {
            b"SET" | b"RESET" if !ours => {
                if !followed || tag == b"RESET" {
                    self.leave(Effects::SETTINGS, followed);
                }
                self.set_since_discard = self.discarded;
            }
            b"DECLARE CURSOR" if !ours && !followed => self.leave(Effects::CURSOR, followed),
            b"LISTEN" if !ours => self.leave(Effects::LISTEN, followed),
            b"PREPARE" => self.leave(Effects::PREPARE, followed),
            b"LOAD" if followed => self.loaded = true,
            b"LOAD" => self.set_close_needed(),
            b"DEALLOCATE" => self.forget_deallocated(session),
            b"DEALLOCATE ALL" | b"DISCARD ALL" => self.forget_all(session, tag == b"DISCARD ALL", ours),
            _ => {}
        }
    }

    /// A command left such state: an audit looks for it, or it is removed before the server is lent again.
    fn leave(&mut self, state: Effects, followed: bool) {
        *(if followed { &mut self.touched } else { &mut self.residue }) |= state;
    }

    fn forget_deallocated(&mut self, session: Option<&mut Session>) {
        let name = match self.ledger.front() {
            Some(Owed::Deallocate { name, statement, .. }) => {
                self.prepared.remove(statement.id());
                name
            }
            Some(Owed::ExecuteDeallocate { name }) => name,
            _ => {
                // It may have been one of ours, where SQL names them: then it was seen in the text.
                let followed = session.is_some_and(|session| session.is_followed());
                return self.leave(Effects::PREPARE, followed);
            }
        };
        session.into_iter().for_each(|session| session.forget_name(name));
    }

    fn forget_all(&mut self, session: Option<&mut Session>, everything: bool, ours: bool) {
        self.prepared.clear();
        self.has_audit = false;
        self.leftover = None;
        if let Some(session) = session
            && !ours
        {
            session.forget_statements(everything);
        }
        if everything {
            self.forget_sequences();
            self.discarded = true;
            self.residue = Effects::default();
            self.pins = self.pins & Effects::LOAD;
            self.settings = Arc::default();
            self.stain = None;
        }
    }

    /// An error: FATAL ones are kept for when the server is gone. Is it for the client?
    fn handle_error(&mut self, mut session: Option<&mut Session>, body: &[u8], ctx: &mut Ctx<'_>) -> bool {
        let report = Report::read(body).ok();
        if report.is_some_and(|r| r.is_fatal()) {
            self.last_words = Some(body.into());
            return false;
        }
        self.fail_copy();
        let audit_failed = self.fail_audit();
        let Some(front) = self.ledger.front() else { return session.is_some() };
        let mut shown = session.is_some();
        let mut named_ours = false;
        if let (Some(report), Some((theirs, name))) = (report, session.as_ref().and_then(|s| s.error_names(front))) {
            shown = !write_renamed(report, theirs.as_bytes(), &name, ctx.plan);
            named_ours = !shown;
        }
        match front {
            Owed::Bind(Some(named)) | Owed::DescribeStatement(Some(named)) => {
                let id = named.statement.id();
                match report.map(|r| r.sqlstate()) {
                    Some(code) if code == sqlstate::FEATURE_NOT_SUPPORTED.as_bytes() => {
                        // Most likely "cached plan must not change result type": true of every server that has it.
                        self.prepared.spoil(id);
                        ctx.registry.retire(&named.statement);
                    }
                    // SQL's EXECUTE can miss another one.
                    Some(code) if named_ours && code == sqlstate::INVALID_STATEMENT_NAME.as_bytes() => {
                        self.prepared.remove(id);
                    }
                    _ => {}
                }
            }
            Owed::ParseTooLong { .. } | Owed::RefusedParse(_) | Owed::RefusedQuery(_) | Owed::Changed
                if report.is_some_and(|r| r.sqlstate() == sqlstate::INVALID_STATEMENT_NAME.as_bytes()) =>
            {
                ctx.plan.insert(|out| match *front {
                    Owed::ParseTooLong { max } => Refusal::StatementTooLong { max }.write(Severity::Error, out),
                    Owed::RefusedParse(reason) | Owed::RefusedQuery(reason) => {
                        Refusal::StateRefused(reason).write(Severity::Error, out);
                    }
                    _ => crate::shape::write_changed(out),
                });
                shown = false;
            }
            Owed::HiddenQuery if self.catalog_rows.is_some() => {
                self.catalog_rows = Some(None);
                shown = false;
            }
            // A cancel that came late may hit a command of ours; it hit nobody else.
            Owed::HiddenQuery
                if session.is_none() && report.is_some_and(|r| r.sqlstate() == sqlstate::QUERY_CANCELED.as_bytes()) =>
            {
                self.retry_cleaning();
                shown = false;
            }
            _ if audit_failed => shown = false,
            Owed::HiddenListen if session.as_deref_mut().is_some_and(Session::fail_move) => shown = false,
            Owed::HiddenBegin => {
                // What follows takes effect as a whole without it; but nothing more is to be sent behind that.
                if self.guard == Guard::Open {
                    let sent_behind = self.ledger.len() > BEGIN_AND_REPLAY;
                    self.guard = if sent_behind { Guard::Used } else { Guard::Shut };
                }
                shown = false;
            }
            // A time limit of what the last client had: this one is not to answer for that.
            Owed::HiddenQuery
                if self.guard == Guard::Shut
                    && report.is_some_and(|r| r.sqlstate() == sqlstate::QUERY_CANCELED.as_bytes()) =>
            {
                self.reset_failed = true;
                self.set_close_needed();
                shown = false;
            }
            _ if self.ledger.is_front_ours() => {
                let sent_behind = self.guard != Guard::Shut && self.ledger.len() > 1;
                self.guard = if sent_behind { Guard::Failed } else { Guard::Shut };
                self.own_error = Some(body.into());
                self.keep_sequences();
                shown = false;
            }
            _ => {}
        }
        for dropped in self.ledger.fail() {
            self.undo(dropped, session.as_deref_mut());
        }
        shown
    }

    /// A cleaning command did not run: all of it is due again.
    fn retry_cleaning(&mut self) {
        self.residue |= Effects::OPAQUE.parts() | Effects::SEQUENCE;
    }

    /// A message the server did not act on had no effect on what we know, either.
    fn undo(&mut self, owed: Owed, session: Option<&mut Session>) {
        match &owed {
            Owed::Parse { statement, .. } | Owed::HiddenParse(Some(statement)) => self.prepared.remove(statement.id()),
            Owed::HiddenClose(Some(statement)) => {
                self.prepared.insert(statement.clone());
                self.prepared.spoil(statement.id());
            }
            Owed::Query(None) | Owed::Deallocate { replaced: None, .. } => {}
            Owed::ParseUnnamed(replaced)
            | Owed::CloseUnnamed(replaced)
            | Owed::Query(replaced)
            | Owed::Deallocate { replaced, .. } => {
                if self.ledger.replaces_unnamed(replaced.as_deref()) {
                    return;
                }
                self.unnamed = Some(NOBODYS);
            }
            Owed::HiddenDescribe(_) => self.checking = false,
            // Of an audit or of what discards values of sequences.
            Owed::HiddenExecute => self.keep_sequences(),
            Owed::HiddenParse(None) | Owed::HiddenClose(None) => self.unnamed = Some(NOBODYS),
            // What it was to deallocate is still there.
            Owed::ExecuteDeallocate { name } => {
                self.residue |= Effects::PREPARE;
                self.leftover = Some(name.clone());
            }
            _ => {}
        }
        if let Some(session) = session {
            session.undo(owed);
        }
    }

    /// Answers of our own whose turn has come.
    pub(crate) fn settle(&mut self, plan: &mut Plan) {
        while let Some(answer) = self.own_answer() {
            plan.insert(|out| BackendWriter(out).bare(answer));
        }
    }

    /// The same for answers that come due while we read the client.
    pub(crate) fn settle_reply(&mut self, plan: &mut Plan) {
        while let Some(answer) = self.own_answer() {
            BackendWriter(&mut plan.reply).bare(answer);
        }
    }

    fn own_answer(&mut self) -> Option<u8> {
        if self.rest.left > 0 {
            return None;
        }
        let answer = match self.ledger.front()? {
            Owed::OwnParseComplete { .. } => backend::PARSE_COMPLETE,
            Owed::OwnCloseComplete { .. } => backend::CLOSE_COMPLETE,
            _ => return None,
        };
        self.ledger.pop();
        Some(answer)
    }
}

/// An error whose message names a statement as the server knows it, told with the client's name. Does it name it? The
/// name is looked for without its quotes, which depend on the server's language.
fn write_renamed(report: Report<'_>, theirs: &[u8], name: &[u8], plan: &mut Plan) -> bool {
    let text = report.message();
    let Some(at) = text.windows(theirs.len()).position(|part| part == theirs) else { return false };
    let rest = &text[at + theirs.len()..];
    if theirs.last().is_some_and(u8::is_ascii_digit) && rest.first().is_some_and(u8::is_ascii_digit) {
        return false;
    }
    let told = [&text[..at], name, rest].concat();
    let fields = report.fields().map(|(code, value)| (code, if code == field::MESSAGE { &told[..] } else { value }));
    plan.insert(|out| BackendWriter(out).error_fields(fields));
    true
}
