//! Replication connections: physical and logical, spoken by hand and by PostgreSQL's own tools, each with a WAL sender of
//! its own that the pool knows nothing of.

use std::process::Command;
use std::time::Duration;

use pgsluice_tests::postgres::binary;
use pgsluice_tests::process::Directory;
use pgsluice_tests::program::run;
use pgsluice_tests::wire::{LoginError, message as m, show};
use pgsluice_tests::{APP, Pooler, Postgres, Raw, Reply, SUPERUSER, Version, eventually};

const SOON: Duration = Duration::from_secs(10);
const LIMIT: Duration = Duration::from_secs(90);

/// A cluster that replicates, a pooler of two servers per pool in front of it, and a database named in its configuration.
fn replicating(version: Version) -> (Postgres, Pooler) {
    let postgres = Postgres::start_version(version, &[("wal_level", "logical"), ("wal_sender_timeout", "20s")]);
    let pooler = Pooler::url(&postgres, SUPERUSER, "postgres", &["--pool-size", "2"]);
    (postgres, pooler)
}

fn parameters<'a>(login: &'a pgsluice_tests::Login, replication: &'a str) -> [(&'a str, &'a str); 4] {
    let database = if replication == "database" { "postgres" } else { "replication" };
    [("user", login.user), ("database", database), ("replication", replication), ("application_name", "a standby")]
}

/// CopyData from the client: a standby status update that says everything up to `lsn` is written, and wants no answer.
fn status_update(lsn: u64) -> Vec<u8> {
    let lsn = lsn.to_be_bytes();
    m::copy_data(&[b"r", &lsn[..], &lsn[..], &lsn[..], &[0; 8], &[0]].concat())
}

fn wal_senders(watch: &mut Raw) -> String {
    watch.value("SELECT count(*) FROM pg_stat_replication WHERE application_name = 'a standby'")
}

#[test]
fn physical_replication_streams_both_ways() {
    for version in Version::ALL {
        let (postgres, pooler) = replicating(version);
        let mut watch = postgres.admin("postgres");
        let mut direct =
            Raw::connect_with(postgres.addr(), SUPERUSER.password, &parameters(&SUPERUSER, "true")).unwrap();
        let mut raw = Raw::connect_with(pooler.addr(), SUPERUSER.password, &parameters(&SUPERUSER, "true")).unwrap();
        assert_eq!(raw.parameters, direct.parameters);
        assert_eq!(show(&raw.query("SHOW wal_level")), show(&direct.query("SHOW wal_level")));
        let system = raw.query("IDENTIFY_SYSTEM");
        let values = system.iter().find(|reply| reply.tag == b'D').map(Reply::values).unwrap();
        let position = values[2].clone().unwrap();
        raw.send(&m::query(&format!("START_REPLICATION PHYSICAL {position}"))).unwrap();
        assert_eq!(raw.recv().unwrap().tag, b'W', "CopyBothResponse");
        let mut writer = pooler.connect(SUPERUSER, "postgres");
        writer.run("CREATE TABLE noise (x text)");
        writer.run("INSERT INTO noise SELECT repeat('x', 1000) FROM generate_series(1, 5000)");
        let mut bytes = 0;
        while bytes < 5_000_000 {
            let reply = raw.recv().unwrap();
            assert_eq!(reply.tag, b'd');
            bytes += if reply.body[0] == b'w' { reply.body.len() } else { 0 };
        }
        raw.send(&status_update(1 << 40)).unwrap();
        let written = "SELECT write_lsn > '0/0' FROM pg_stat_replication WHERE application_name = 'a standby' AND write_lsn IS NOT NULL";
        assert!(eventually(SOON, || watch.rows(written).is_ok_and(|rows| rows.len() == 1)), "the update arrives");
        let links = || pooler.show("SHOW CLIENTS").iter().filter(|row| !row["link"].is_empty()).count();
        assert!(eventually(SOON, || links() == 1), "the console shows the link");
        raw.send(&m::copy_done()).unwrap();
        let end = raw.until_ready();
        assert!(end.iter().any(|reply| reply.tag == b'c'), "{:?}", &end[end.len() - 3..]);
        raw.send(&m::terminate()).unwrap();
        drop(direct);
        assert!(eventually(SOON, || wal_senders(&mut watch) == "0"), "the WAL sender goes with its client");
    }
}

#[test]
fn logical_replication_takes_sql_and_streams_changes() {
    for version in Version::ALL {
        let (_postgres, pooler) = replicating(version);
        let mut writer = pooler.connect(SUPERUSER, "postgres");
        writer.run("CREATE TABLE item (id int PRIMARY KEY)");
        writer.run("CREATE PUBLICATION everything FOR ALL TABLES");
        let mut raw =
            Raw::connect_with(pooler.addr(), SUPERUSER.password, &parameters(&SUPERUSER, "database")).unwrap();
        assert_eq!(raw.value("SELECT current_setting('application_name')"), "a standby");
        let made = raw.query("CREATE_REPLICATION_SLOT slot_1 TEMPORARY LOGICAL pgoutput NOEXPORT_SNAPSHOT");
        assert!(made.iter().all(|reply| reply.tag != b'E'), "{made:?}");
        let start = "START_REPLICATION SLOT slot_1 LOGICAL 0/0 (proto_version '1', publication_names 'everything')";
        raw.send(&m::query(start)).unwrap();
        assert_eq!(raw.recv().unwrap().tag, b'W', "CopyBothResponse");
        writer.run("INSERT INTO item SELECT generate_series(1, 100)");
        let mut inserts = 0;
        while inserts < 100 {
            let reply = raw.recv().unwrap();
            // XLogData: 'w', three 8-byte numbers, then pgoutput's own message.
            inserts += usize::from(reply.tag == b'd' && reply.body[0] == b'w' && reply.body.get(25) == Some(&b'I'));
        }
    }
}

#[test]
fn who_may_not_replicate_is_told_so_by_postgresql() {
    let (postgres, pooler) = replicating(Version::V18);
    let text = format!(
        "listen_addr = \"127.0.0.1\"\nlisten_port = {{port}}\nadmin_users = [\"app\"]\n\
         [databases.postgres]\nhost = \"127.0.0.1\"\nport = {}\n[users.app]\npassword = \"{}\"\n",
        postgres.port(),
        APP.password
    );
    let other = Pooler::file("pgsluice.toml", &text, APP);
    let refused = |addr| match Raw::connect_with(addr, APP.password, &parameters(&APP, "true")) {
        Err(LoginError::Refused(reply)) => [b'S', b'C', b'M', b'D'].map(|field| reply.field(field)),
        other => panic!("{:?}", other.map(drop)),
    };
    let direct = refused(postgres.addr());
    assert_eq!(direct[1], "42501");
    assert_eq!(refused(other.addr()), direct);
    let nowhere = [("user", SUPERUSER.user), ("database", "nowhere"), ("replication", "database")];
    let unknown = Raw::connect_with(pooler.addr(), SUPERUSER.password, &nowhere).map(drop).unwrap_err();
    assert_eq!(unknown.sqlstate(), "3D000");
}

#[test]
fn a_replication_client_can_be_cancelled_killed_and_lost() {
    let (postgres, pooler) = replicating(Version::Installed);
    let mut watch = postgres.admin("postgres");
    let connect = || Raw::connect_with(pooler.addr(), SUPERUSER.password, &parameters(&SUPERUSER, "database")).unwrap();
    let mut client = connect();
    client.send(&m::query("SELECT pg_sleep(30)")).unwrap();
    let running = "SELECT count(*) FROM pg_stat_activity WHERE query = 'SELECT pg_sleep(30)' AND state = 'active'";
    assert!(eventually(SOON, || watch.value(running) == "1"));
    client.cancel().unwrap();
    assert_eq!(show(&client.until_ready()), ["T pg_sleep", "E 57014", "Z I"]);
    let row = pooler.show("SHOW CLIENTS").into_iter().find(|row| row["application_name"] == "a standby");
    let row = row.expect("the console shows it");
    assert_eq!((row["state"].as_str(), row["replication"].as_str()), ("active", "logical"));
    let servers = pooler.show("SHOW SERVERS");
    assert!(servers.iter().any(|s| s["replication"] == "logical" && s["link"] == row["ptr"]), "{servers:?}");
    drop(client);
    assert!(eventually(SOON, || wal_senders(&mut watch) == "0"), "a client that hangs up takes its server along");

    let mut killed = connect();
    assert_eq!(killed.value("SELECT 1"), "1");
    pooler.console().run("KILL postgres");
    assert!(killed.until_closed(SOON).is_some());
    pooler.console().run("RESUME postgres");

    let mut orphan = connect();
    let pid = orphan.value("SELECT pg_backend_pid()");
    watch.run(&format!("SELECT pg_terminate_backend({pid})"));
    let last = orphan.until_closed(SOON).expect("closed");
    assert_eq!(last.last().map(Reply::sqlstate).as_deref(), Some("57P01"), "the server's last word is delivered");
    assert_eq!(pooler.connect(SUPERUSER, "postgres").value("SELECT 1"), "1");
}

#[test]
fn postgresqls_own_tools_replicate_through_it() {
    let (postgres, pooler) = replicating(Version::Installed);
    let mut admin = postgres.admin("postgres");
    admin.run("CREATE TABLE item AS SELECT generate_series(1, 1000) AS id");
    let scratch = Directory::fresh("replication");
    let tool = |name: &str, arguments: &[&str]| {
        let mut command = Command::new(binary(name));
        command.env("PGPASSWORD", SUPERUSER.password).env("PGSSLMODE", "disable").env("LC_ALL", "C");
        command.args(["-h", "127.0.0.1", "-p", &pooler.port().to_string(), "-U", SUPERUSER.user]).args(arguments);
        run(command, LIMIT).expect_ok(name)
    };
    let backup = scratch.path().join("backup");
    tool("pg_basebackup", &["-D", &backup.to_string_lossy(), "-X", "stream", "-c", "fast"]);
    assert!(backup.join("PG_VERSION").exists() && backup.join("global/pg_control").exists());
    let wal = scratch.path().join("wal");
    std::fs::create_dir(&wal).unwrap();
    let end = admin.value("SELECT pg_current_wal_lsn()");
    admin.run("SELECT pg_switch_wal()");
    admin.run("CREATE TABLE more AS SELECT generate_series(1, 1000) AS id");
    tool("pg_receivewal", &["-D", &wal.to_string_lossy(), "--endpos", &end, "--no-loop"]);
    let received = std::fs::read_dir(&wal).unwrap().count();
    assert!(received > 0, "WAL files arrive");
    tool("pg_recvlogical", &["-d", "postgres", "--create-slot", "--slot", "s", "-P", "pgoutput"]);
    tool("pg_recvlogical", &["-d", "postgres", "--drop-slot", "--slot", "s"]);
}
