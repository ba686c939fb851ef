//! tokio-postgres through transaction mode on three shuffled servers: the driver of the Rust world, and the one
//! that pipelines by itself.

use std::time::Duration;

use bytes::Bytes;
use futures_util::{SinkExt, StreamExt, TryStreamExt, future, pin_mut};
use pgsluice_tests::{APP, Postgres, Version, under_shuffle};
use tokio_postgres::error::SqlState;
use tokio_postgres::types::{Kind, ToSql, Type};
use tokio_postgres::{Client, NoTls, SimpleQueryMessage};

/// Runs `work` with every PostgreSQL, in a fresh database each time: directly, then through a pool under shuffle.
fn with_client(work: impl AsyncFn(Client)) {
    for version in Version::ALL {
        let postgres = Postgres::shared_version(version);
        on_connection(&postgres.url(APP, &postgres.database()), &work);
        under_shuffle(postgres, |pooler, database| on_connection(&pooler.conninfo(APP, database), &work));
    }
}

fn on_connection(conninfo: &str, work: &impl AsyncFn(Client)) {
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let (client, connection) = tokio_postgres::connect(conninfo, NoTls).await.expect("a login");
        let driver = tokio::spawn(connection);
        tokio::time::timeout(Duration::from_secs(60), work(client)).await.expect("the driver hangs");
        driver.await.expect("the driver does not panic").expect("the connection ends well");
    });
}

#[test]
fn prepared_statements() {
    with_client(async |client| {
        let double = client.prepare_typed("SELECT $1 * 2", &[Type::INT4]).await.unwrap();
        assert_eq!(double.columns()[0].type_(), &Type::INT4);
        for n in 0..100 {
            let row = client.query_one(&double, &[&n]).await.unwrap();
            assert_eq!(row.get::<_, i32>(0), 2 * n);
        }
        for n in 0..100 {
            // Prepared, used and closed each time.
            let row = client.query_one("SELECT $1::text", &[&format!("t{n}")]).await.unwrap();
            assert_eq!(row.get::<_, String>(0), format!("t{n}"));
        }
    });
}

#[test]
fn pipelined_queries() {
    with_client(async |client| {
        let statement = client.prepare("SELECT $1::int, pg_backend_pid()").await.unwrap();
        let queries = (0..1000).map(|n| {
            let (client, statement) = (&client, &statement);
            async move { client.query_one(statement, &[&n]).await.map(|row| row.get::<_, i32>(0)) }
        });
        let got = future::try_join_all(queries).await.unwrap();
        assert_eq!(got, (0..1000).collect::<Vec<i32>>());
    });
}

#[test]
fn transactions_and_portals() {
    with_client(async |mut client| {
        client.batch_execute("CREATE TABLE tp (id int PRIMARY KEY)").await.unwrap();
        let mut transaction = client.transaction().await.unwrap();
        transaction.execute("INSERT INTO tp SELECT generate_series(1, 100)", &[]).await.unwrap();
        let savepoint = transaction.transaction().await.unwrap();
        savepoint.execute("DELETE FROM tp", &[]).await.unwrap();
        savepoint.rollback().await.unwrap();
        let portal = transaction.bind("SELECT id FROM tp ORDER BY id", &[]).await.unwrap();
        let mut got = Vec::new();
        loop {
            let rows = transaction.query_portal(&portal, 7).await.unwrap();
            if rows.is_empty() {
                break;
            }
            got.extend(rows.iter().map(|row| row.get::<_, i32>(0)));
        }
        assert_eq!(got, (1..=100).collect::<Vec<_>>());
        transaction.commit().await.unwrap();

        // Dropped without commit: the driver rolls back behind our back, with the next query in the pipe.
        let transaction = client.transaction().await.unwrap();
        transaction.execute("DELETE FROM tp", &[]).await.unwrap();
        drop(transaction);
        assert_eq!(client.query_one("SELECT count(*) FROM tp", &[]).await.unwrap().get::<_, i64>(0), 100);
    });
}

#[test]
fn copy_in_and_out() {
    with_client(async |client| {
        client.batch_execute("CREATE TABLE tp (id int PRIMARY KEY, name text)").await.unwrap();
        let sink = client.copy_in("COPY tp FROM STDIN").await.unwrap();
        pin_mut!(sink);
        for n in 0..3000 {
            sink.send(Bytes::from(format!("{n}\tname {n}\n"))).await.unwrap();
        }
        assert_eq!(sink.finish().await.unwrap(), 3000);

        let stream = client.copy_out("COPY tp TO STDOUT").await.unwrap();
        let chunks: Vec<Bytes> = stream.try_collect().await.unwrap();
        assert_eq!(chunks.concat().iter().filter(|&&byte| byte == b'\n').count(), 3000);

        // A sink dropped half way is a CopyFail; nothing of it stays.
        let sink = client.copy_in::<_, Bytes>("COPY tp FROM STDIN").await.unwrap();
        drop(Box::pin(sink));
        assert_eq!(client.query_one("SELECT count(*) FROM tp", &[]).await.unwrap().get::<_, i64>(0), 3000);
    });
}

#[test]
fn errors_and_streams() {
    with_client(async |client| {
        let error = client.query("SELECT $1::int / 0", &[&1]).await.unwrap_err();
        assert_eq!(error.code(), Some(&SqlState::DIVISION_BY_ZERO));
        let error = client.prepare("SELECT * FROM no_such_table").await.unwrap_err();
        assert_eq!(error.code(), Some(&SqlState::UNDEFINED_TABLE));
        let none: [&dyn ToSql; 0] = [];
        let stream =
            client.query_raw("SELECT n, repeat('x', 1000) FROM generate_series(1, 20000) n", none).await.unwrap();
        pin_mut!(stream);
        let mut count = 0;
        while let Some(row) = stream.next().await {
            count += 1;
            assert_eq!(row.unwrap().get::<_, i32>(0), count);
        }
        assert_eq!(count, 20_000);
    });
}

#[test]
fn cancel_token() {
    with_client(async |client| {
        let token = client.cancel_token();
        let sleeper = client.batch_execute("SELECT pg_sleep(20)");
        let canceller = async {
            tokio::time::sleep(Duration::from_millis(300)).await;
            token.cancel_query(NoTls).await.expect("the request is taken");
        };
        let (slept, ()) =
            tokio::time::timeout(Duration::from_secs(10), future::join(sleeper, canceller)).await.unwrap();
        assert_eq!(slept.unwrap_err().code(), Some(&SqlState::QUERY_CANCELED));
        assert_eq!(client.query_one("SELECT 1", &[]).await.unwrap().get::<_, i32>(0), 1);
    });
}

#[test]
fn simple_queries_and_row_streams() {
    with_client(async |client| {
        let messages =
            client.simple_query("SELECT 1; SELECT 'two'; CREATE TEMP TABLE gone (id int) ON COMMIT DROP").await;
        let values = messages.unwrap().into_iter().filter_map(|message| match message {
            SimpleQueryMessage::Row(row) => row.get(0).map(str::to_owned),
            _ => None,
        });
        assert_eq!(values.collect::<Vec<_>>(), ["1", "two"]);
        let error = client.batch_execute("SELECT 1; SELEC").await.unwrap_err();
        assert_eq!(error.code(), Some(&SqlState::SYNTAX_ERROR));

        // A stream given up with most of its rows to come: the driver reads and drops them behind the next query.
        let none: [&dyn ToSql; 0] = [];
        let stream = client.query_raw("SELECT repeat('x', 1000) FROM generate_series(1, 20000)", none).await.unwrap();
        let mut stream = Box::pin(stream);
        assert_eq!(stream.next().await.unwrap().unwrap().get::<_, &str>(0).len(), 1000);
        drop(stream);
        let rows = client.query("SELECT n FROM generate_series(1, 5) n", &[]).await;
        assert_eq!(rows.unwrap().len(), 5);
    });
}

#[test]
fn types_of_ones_own() {
    with_client(async |client| {
        client.batch_execute("CREATE TYPE mood AS ENUM ('sad', 'happy')").await.unwrap();
        let statement = client.prepare("SELECT $1::mood, ARRAY[$1]").await.unwrap();
        assert_eq!(statement.params()[0].name(), "mood");
        let Kind::Enum(labels) = statement.params()[0].kind() else { panic!("an enum") };
        assert_eq!(labels, &["sad", "happy"]);
        let Kind::Array(element) = statement.columns()[1].type_().kind() else { panic!("an array") };
        assert_eq!(element.name(), "mood");
    });
}

#[test]
fn pipelined_errors_hit_one_query_each() {
    with_client(async |client| {
        let divide = client.prepare("SELECT 100 / $1::int").await.unwrap();
        let queries = (0..200).map(|n| {
            let (client, divide) = (&client, &divide);
            async move { client.query_one(divide, &[&(n % 5)]).await.map(|row| row.get::<_, i32>(0)) }
        });
        for (n, result) in future::join_all(queries).await.into_iter().enumerate() {
            match n as i32 % 5 {
                0 => assert_eq!(result.unwrap_err().code(), Some(&SqlState::DIVISION_BY_ZERO)),
                divisor => assert_eq!(result.unwrap(), 100 / divisor),
            }
        }
    });
}
