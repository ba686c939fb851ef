//! sqlx through transaction mode on three shuffled servers: it prepares everything it runs, keeps what it prepared, and
//! has a pool of its own in front of ours.

use std::time::Duration;

use futures_util::{StreamExt, TryStreamExt, future};
use pgsluice_tests::{APP, Postgres, Version, under_shuffle};
use sqlx::postgres::{PgConnectOptions, PgConnection, PgPool, PgPoolCopyExt, PgPoolOptions};
use sqlx::{Acquire, Column, Connection, Executor, Row, Statement, TypeInfo};

/// Runs `work` with every PostgreSQL, in a fresh database each time: directly, then through a pool under shuffle.
fn with_pool(work: impl AsyncFn(PgPool)) {
    for version in Version::ALL {
        let postgres = Postgres::shared_version(version);
        on_pool(&postgres.url(APP, &postgres.database()), &work);
        under_shuffle(postgres, |pooler, database| on_pool(&pooler.conn_url(APP, database), &work));
    }
}

fn on_pool(url: &str, work: &impl AsyncFn(PgPool)) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let options: PgConnectOptions = url.parse().expect("a URL");
        let pool = PgPoolOptions::new().max_connections(8).connect_with(options).await.expect("a login");
        tokio::time::timeout(Duration::from_secs(60), work(pool.clone())).await.expect("the driver hangs");
        pool.close().await;
    });
}

async fn create(pool: &PgPool) {
    pool.execute("CREATE TABLE item (id int PRIMARY KEY, name text)").await.expect("a new table");
}

async fn count(executor: &mut PgConnection) -> i64 {
    sqlx::query_scalar("SELECT count(*) FROM item").fetch_one(executor).await.expect("a count")
}

/// The SQLSTATE of an error.
fn code<T>(result: Result<T, sqlx::Error>) -> String {
    let Err(sqlx::Error::Database(error)) = result else { panic!("an error of PostgreSQL's") };
    error.code().expect("PostgreSQL's errors have codes").into_owned()
}

#[test]
fn statements_are_kept_and_given_up() {
    with_pool(async |pool| {
        let mut conn = pool.acquire().await.unwrap();
        for n in 0..300_i32 {
            let sum: i32 = sqlx::query_scalar("SELECT $1 * 2").bind(n).fetch_one(&mut *conn).await.unwrap();
            assert_eq!(sum, 2 * n);
        }
        for n in 0..250_i32 {
            // More than its cache of 100 holds: it closes the oldest.
            let sql = format!("SELECT $1 + {}", n % 150);
            let sum: i32 = sqlx::query_scalar(&sql).bind(n).fetch_one(&mut *conn).await.unwrap();
            assert_eq!(sum, n + n % 150);
        }
        assert_eq!(conn.cached_statements_size(), 100);
        conn.clear_cached_statements().await.unwrap();
        for n in 0..50_i32 {
            let query = sqlx::query_scalar("SELECT $1 * 2").bind(n).persistent(n % 2 == 0);
            assert_eq!(query.fetch_one(&mut *conn).await.ok(), Some(2 * n));
        }
    });
}

#[test]
fn transactions_nest_and_roll_back_when_dropped() {
    with_pool(async |pool| {
        create(&pool).await;
        let mut outer = pool.begin().await.unwrap();
        sqlx::query("INSERT INTO item VALUES ($1, $2)").bind(1).bind("one").execute(&mut *outer).await.unwrap();
        let mut inner = outer.begin().await.unwrap();
        let again = sqlx::query("INSERT INTO item VALUES ($1, $2)").bind(1).bind("again").execute(&mut *inner).await;
        assert_eq!(code(again), "23505");
        assert_eq!(code(sqlx::query("SELECT 1").execute(&mut *inner).await), "25P02");
        inner.rollback().await.unwrap();
        outer.commit().await.unwrap();

        let mut conn = pool.acquire().await.unwrap();
        for _ in 0..20 {
            let mut dropped = conn.begin().await.unwrap();
            sqlx::query("DELETE FROM item").execute(&mut *dropped).await.unwrap();
            drop(dropped);
            assert_eq!(count(&mut conn).await, 1);
        }
    });
}

#[test]
fn a_pool_on_a_pool() {
    with_pool(async |pool| {
        let tasks = (0..200_i32).map(|n| {
            let pool = &pool;
            async move {
                let mut transaction = pool.begin().await?;
                let before: i32 = sqlx::query_scalar("SELECT pg_backend_pid()").fetch_one(&mut *transaction).await?;
                let sql = format!("SELECT $1 + {}", n % 7);
                let sum: i32 = sqlx::query_scalar(&sql).bind(n).fetch_one(&mut *transaction).await?;
                let after: i32 = sqlx::query_scalar("SELECT pg_backend_pid()").fetch_one(&mut *transaction).await?;
                transaction.commit().await?;
                Ok::<_, sqlx::Error>((sum == n + n % 7) && before == after)
            }
        });
        assert!(future::try_join_all(tasks).await.unwrap().into_iter().all(|right| right));
    });
}

#[test]
fn streams_whole_and_given_up() {
    with_pool(async |pool| {
        let mut conn = pool.acquire().await.unwrap();
        let rows =
            sqlx::query("SELECT n, repeat('x', 500) FROM generate_series(1, $1) n").bind(20_000).fetch(&mut *conn);
        let numbers: Vec<i32> = rows.map_ok(|row| row.get::<i32, _>(0)).try_collect().await.unwrap();
        assert_eq!(numbers, (1..=20_000).collect::<Vec<_>>());
        for _ in 0..10 {
            let mut rows = sqlx::query("SELECT n FROM generate_series(1, 20000) n").fetch(&mut *conn);
            assert_eq!(rows.next().await.unwrap().unwrap().get::<i32, _>(0), 1);
            drop(rows);
            assert_eq!(sqlx::query_scalar("SELECT 7").fetch_one(&mut *conn).await.ok(), Some(7));
        }
        let several = sqlx::raw_sql("SELECT 1; SELECT 2; SELECT 3").fetch_all(&mut *conn).await.unwrap();
        assert_eq!(several.iter().map(|row| row.get::<i32, _>(0)).collect::<Vec<_>>(), [1, 2, 3]);
    });
}

#[test]
fn errors_leave_the_connection_usable() {
    with_pool(async |pool| {
        let mut conn = pool.acquire().await.unwrap();
        for _ in 0..10 {
            assert_eq!(code(sqlx::query("SELEC").execute(&mut *conn).await), "42601");
            assert_eq!(code(sqlx::query("SELECT * FROM no_such_table").execute(&mut *conn).await), "42P01");
            assert_eq!(code(sqlx::query("SELECT 1 / $1").bind(0).execute(&mut *conn).await), "22012");
            assert_eq!(code(sqlx::raw_sql("SELECT 1; SELECT 1/0; SELECT 2").execute(&mut *conn).await), "22012");
            conn.ping().await.unwrap();
        }
    });
}

#[test]
fn copies() {
    with_pool(async |pool| {
        create(&pool).await;
        let rows: String = (0..50_000).map(|n| format!("{n}\tname {n}\n")).collect();
        let mut copy = pool.copy_in_raw("COPY item FROM STDIN").await.unwrap();
        for chunk in rows.as_bytes().chunks(10_000) {
            copy.send(chunk).await.unwrap();
        }
        assert_eq!(copy.finish().await.unwrap(), 50_000);
        let copy = pool.copy_out_raw("COPY (SELECT * FROM item ORDER BY id) TO STDOUT").await.unwrap();
        let chunks: Vec<_> = copy.try_collect().await.unwrap();
        assert!(chunks.concat() == rows.as_bytes(), "what came back is not what went in");

        let mut conn = pool.acquire().await.unwrap();
        let mut copy = conn.copy_in_raw("COPY item FROM STDIN").await.unwrap();
        copy.send("-1\tgiven up\n".as_bytes()).await.unwrap();
        copy.abort("changed my mind").await.unwrap();
        let mut copy = conn.copy_in_raw("COPY item FROM STDIN").await.unwrap();
        copy.send("1\ttwice\n".as_bytes()).await.unwrap();
        assert_eq!(code(copy.finish().await), "23505");
        assert_eq!(count(&mut conn).await, 50_000);
    });
}

/// Types it has to look up. What its macros ask at compile time is left out: they run EXPLAIN EXECUTE of a statement that
/// was prepared by the protocol, and in transaction mode SQL does not know those by the client's names.
#[test]
fn descriptions_and_types() {
    with_pool(async |pool| {
        create(&pool).await;
        pool.execute("CREATE TYPE mood AS ENUM ('sad', 'happy')").await.unwrap();
        let mut conn = pool.acquire().await.unwrap();
        for _ in 0..10 {
            let statement = conn.prepare("SELECT id, name, $1::mood AS mood FROM item WHERE id = $2").await.unwrap();
            let columns: Vec<_> = statement.columns().iter().map(|c| (c.name(), c.type_info().name())).collect();
            assert_eq!(columns, [("id", "INT4"), ("name", "TEXT"), ("mood", "mood")]);
            let row = sqlx::query("SELECT $1, $2, $3").bind(vec![1, 2]).bind(b"\0\xff".as_slice()).bind(None::<i64>);
            let row = row.fetch_one(&mut *conn).await.unwrap();
            assert_eq!(row.get::<Vec<i32>, _>(0), [1, 2]);
            assert_eq!(row.get::<Vec<u8>, _>(1), [0, 255]);
            assert_eq!(row.get::<Option<i64>, _>(2), None);
        }
    });
}
