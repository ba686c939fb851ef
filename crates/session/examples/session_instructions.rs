//! What messages cost in instructions: `session_instructions SCENARIO N` does a thing N times, to be counted from outside
//! (`scripts/instructions.sh`); without arguments it names the scenarios, with what each is counted by.

use std::error::Error;
use std::hint::black_box;
use std::sync::Arc;

use pgsluice_session::{
    CancelKey, Catalog, Counters, Ctx, IdleServer, Params, Plan, Pooling, Registry, Server, Session, Settings,
    Suspects, Tracking, Want,
};
use pgsluice_wire::{
    BackendWriter, Bind, CommandComplete, DataRow, FrontendWriter, HEAD_LEN, Head, Parse, TxStatus, tag::frontend,
};

type Outcome = Result<(), Box<dyn Error>>;

/// A name, what one of it is, and what does so many.
type Scenario = (&'static str, &'static str, fn(u32) -> Outcome);

const SCENARIOS: &[Scenario] = &[
    ("wire_heads", "message whose head is read", wire_heads),
    ("wire_views", "Parse, Bind, DataRow and CommandComplete looked into", wire_views),
    ("session_simple", "simple query, its server taken and given back", |n| exchange(n, &simple(), &selected(false))),
    ("session_extended", "unnamed statement, its server taken and given back", |n| {
        exchange(n, &extended(), &selected(true))
    }),
    ("session_prepared", "named statement, bound and executed, its server taken and given back", prepared),
    ("session_new_text", "simple query of a text that was not seen before", new_text),
    ("session_row", "row of an answer of a thousand", rows),
    ("session_copy", "CopyData of 64 bytes, of a thousand in a row", copy),
];

fn main() -> Outcome {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [name, count] = arguments.as_slice() else {
        SCENARIOS.iter().for_each(|(name, what, _)| println!("{name}\t{what}"));
        return Ok(());
    };
    let (.., run) = SCENARIOS.iter().find(|(known, ..)| known == name).ok_or("no such scenario")?;
    run(count.parse()?)
}

fn frontend(write: impl FnOnce(&mut FrontendWriter<'_>)) -> Vec<u8> {
    let mut bytes = Vec::new();
    write(&mut FrontendWriter(&mut bytes));
    bytes
}

fn backend(write: impl FnOnce(&mut BackendWriter<'_>)) -> Vec<u8> {
    let mut bytes = Vec::new();
    write(&mut BackendWriter(&mut bytes));
    bytes
}

const TEXT: &[u8] = b"SELECT abalance FROM pgbench_accounts WHERE aid = 4711";

fn simple() -> Vec<u8> {
    frontend(|w| w.query(TEXT))
}

fn parse(w: &mut FrontendWriter<'_>, name: &[u8]) {
    w.parse_content(name, &[b"SELECT abalance FROM pgbench_accounts WHERE aid = $1\0", &[0, 0][..]].concat());
}

fn extended() -> Vec<u8> {
    frontend(|w| {
        parse(w, b"");
        w.bind_text(b"", [Some(&b"4711"[..])].into_iter());
        w.execute();
        w.bare(frontend::SYNC);
    })
}

/// One row, and ReadyForQuery.
fn selected(is_extended: bool) -> Vec<u8> {
    backend(|w| {
        if is_extended {
            w.bare(b'1');
            w.bare(b'2');
        } else {
            w.row_description(&[], |_| false);
        }
        w.data_row([Some(&b"-1234"[..])].into_iter());
        w.command_complete("SELECT 1");
        w.ready(TxStatus::Idle);
    })
}

/// A client, and the one server of its pool.
struct World {
    registry: Registry,
    counters: Counters,
    suspects: Suspects,
    plan: Plan,
    session: Session,
    idle: Option<IdleServer>,
}

impl World {
    fn new(tracking: Tracking) -> Self {
        let settings = Arc::<Settings>::default();
        let server = Server::new(CancelKey { pid: 1, secret: Box::new([0; 4]) }, Params::default());
        let mut session = Session::new(1, Pooling::Transaction, 100, settings).with_tracking(tracking);
        session.welcome(Arc::default());
        Self {
            registry: Registry::new(0, 1),
            counters: Counters::default(),
            suspects: Suspects::default(),
            plan: Plan::default(),
            session,
            idle: Some(IdleServer::fresh(server)),
        }
    }

    /// All of what a client sends, and all that the server answers. Parts of messages are not waited for.
    fn exchange(&mut self, client: &[u8], answer: &[u8]) -> Outcome {
        let mut server: Option<Box<Server>> = None;
        let mut at = 0;
        loop {
            self.plan.clear();
            let Self { registry, counters, suspects, plan, session, idle } = self;
            let mut ctx = Ctx { registry, counters, catalog: Catalog::Known(suspects), plan };
            let progress = session.handle_client(server.as_deref_mut(), &client[at..], &mut ctx)?;
            black_box(ctx.plan.slices(&client[at..]).map(<[u8]>::len).sum::<usize>());
            at += progress.consumed;
            match progress.want {
                Want::Checkout => server = Some(idle.take().ok_or("there is one server")?.link()),
                Want::Room => {}
                Want::More => break,
                Want::Server | Want::Close => return Err("it does not go on".into()),
            }
        }
        let mut server = server.ok_or("no server was asked for")?;
        let mut at = 0;
        while at < answer.len() {
            self.plan.clear();
            let Self { registry, counters, suspects, plan, session, .. } = self;
            let mut ctx = Ctx { registry, counters, catalog: Catalog::Known(suspects), plan };
            let taken = session.handle_server(&mut server, &answer[at..], &mut ctx)?;
            black_box(ctx.plan.slices(&answer[at..]).map(<[u8]>::len).sum::<usize>());
            if taken == 0 {
                return Err("an answer that was not asked for".into());
            }
            at += taken;
        }
        if !self.session.can_release(&server) {
            return Err("the server is kept".into());
        }
        self.idle = Some(server.release().map_err(|_| "the server is not as it was")?);
        Ok(())
    }
}

fn exchange(n: u32, client: &[u8], answer: &[u8]) -> Outcome {
    let mut world = World::new(Tracking::default());
    (0..n).try_for_each(|_| world.exchange(client, answer))
}

fn prepared(n: u32) -> Outcome {
    let mut world = World::new(Tracking::default());
    let begin = frontend(|w| {
        parse(w, b"balance");
        w.bare(frontend::SYNC);
    });
    let run = frontend(|w| {
        w.bind_text(b"balance", [Some(&b"4711"[..])].into_iter());
        w.execute();
        w.bare(frontend::SYNC);
    });
    let ready = |front: &[u8]| [front, &backend(|w| w.ready(TxStatus::Idle))].concat();
    world.exchange(&begin, &ready(&backend(|w| w.bare(b'1'))))?;
    let answer = backend(|w| {
        w.bare(b'2');
        w.data_row([Some(&b"-1234"[..])].into_iter());
        w.command_complete("SELECT 1");
    });
    (0..n).try_for_each(|_| world.exchange(&run, &ready(&answer)))
}

fn new_text(n: u32) -> Outcome {
    let mut world = World::new(Tracking::default());
    let answer = selected(false);
    (0..n).try_for_each(|number| {
        let text =
            format!("SELECT a{number}, b FROM t{number} JOIN u USING (id) WHERE c = 'x' AND d > 17 ORDER BY b LIMIT 5");
        world.exchange(&frontend(|w| w.query(text.as_bytes())), &answer)
    })
}

fn rows(n: u32) -> Outcome {
    let answer = backend(|w| {
        w.row_description(&[], |_| false);
        (0..1_000).for_each(|_| w.data_row([Some(&[b'x'; 60][..])].into_iter()));
        w.command_complete("SELECT 1000");
        w.ready(TxStatus::Idle);
    });
    exchange(n / 1_000, &simple(), &answer)
}

fn copy(n: u32) -> Outcome {
    let data = [&[b'd', 0, 0, 0, 68][..], &[b'x'; 64]].concat();
    let done = frontend(|w| w.bare(frontend::COPY_DONE));
    let client = [frontend(|w| w.query(b"COPY t FROM STDIN")), data.repeat(1_000), done].concat();
    let answer = [
        vec![b'G', 0, 0, 0, 7, 0, 0, 0],
        backend(|w| {
            w.command_complete("COPY 1000");
            w.ready(TxStatus::Idle);
        }),
    ];
    // What a COPY may do to a session is asked for behind it otherwise.
    let mut world = World::new(Tracking::OFF);
    (0..n / 1_000).try_for_each(|_| world.exchange(&client, &answer.concat()))
}

fn wire_heads(n: u32) -> Outcome {
    let message = simple();
    for _ in 0..n {
        let head = Head::read(black_box(&message)).map_err(|_| "a head")?.ok_or("a whole one")?;
        black_box(head.total());
    }
    Ok(())
}

fn wire_views(n: u32) -> Outcome {
    let body = |bytes: Vec<u8>| bytes[HEAD_LEN..].to_vec();
    let parse = body(frontend(|w| parse(w, b"balance")));
    let bind = body(frontend(|w| w.bind_text(b"balance", [Some(&b"4711"[..])].into_iter())));
    let row = body(backend(|w| w.data_row([Some(&b"-1234"[..])].into_iter())));
    let complete = body(backend(|w| w.command_complete("SELECT 1")));
    for _ in 0..n {
        black_box(Parse::read(black_box(&parse))?);
        black_box(Bind::read(black_box(&bind)).ok_or("a Bind")?);
        black_box(DataRow::new(black_box(&row)));
        black_box(CommandComplete::read(black_box(&complete))?);
    }
    Ok(())
}
