//! docs/security.md can be copied from as it stands.

use std::path::Path;

use pgsluice_tests::{APP, Login, Pooler, Postgres, Raw, SUPERUSER, Version};

const BOSS: Login = Login { user: "boss", password: "boss" };

/// The only block of this language on the page.
fn block(language: &str) -> String {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/security.md");
    let page = std::fs::read_to_string(page).expect("docs/security.md");
    let blocks: Vec<_> = page.split("```").filter_map(|part| part.strip_prefix(&format!("{language}\n"))).collect();
    assert_eq!(blocks.len(), 1, "{language}");
    blocks[0].to_owned()
}

#[test]
fn the_setup_for_auth_query_works_as_it_stands() {
    for version in Version::ALL {
        let postgres = Postgres::start_version(version, &[]);
        let database = postgres.database();
        postgres.admin("postgres").run(&block("sql"));
        let host = format!("host = \"127.0.0.1\"\nport = {}", postgres.port());
        let text = block("toml").replace("host = \"127.0.0.1\"", &host);
        let text = format!(
            "listen_port = {{port}}\nadmin_users = [\"boss\"]\nauth_failure_delay = 0\nauth_query_cache = 0\n{text}\
             [users.boss]\npassword = \"boss\"\n"
        );
        let pooler = Pooler::file("pgsluice.toml", &text, BOSS);
        let sqlstate = |login| pooler.try_connect(login, &database).map(drop).map_err(|error| error.sqlstate());
        assert_eq!(pooler.connect(APP, &database).value("SELECT current_user"), APP.user);
        assert_eq!(sqlstate(Login { password: "guess", ..APP }), Err("28P01".into()));
        assert_eq!(sqlstate(SUPERUSER), Err("28P01".into()), "superusers are left out");
        let mut admin = postgres.admin("postgres");
        admin.run("ALTER ROLE app VALID UNTIL '2000-01-01'");
        assert_eq!(sqlstate(APP), Err("28P01".into()), "expired");
        // The role may do what it is for, and nothing else; others not even that.
        let mut asker =
            Raw::connect(postgres.addr(), "pgsluice_auth", "choose one", "postgres").expect("it may log in");
        assert_eq!(asker.value("SELECT who FROM pgsluice.secret_of('app')"), "app");
        assert_eq!(asker.rows("SELECT * FROM pg_authid").expect_err("no").sqlstate(), "42501");
        let mut nobody = postgres.connect(pgsluice_tests::APP_TRUST, "postgres");
        assert_eq!(nobody.rows("SELECT pgsluice.secret_of('app')").expect_err("no").sqlstate(), "42501");
    }
}
