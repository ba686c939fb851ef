//! Contradictions between values that are each fine on their own, and combinations the operator should know of.

use std::collections::BTreeSet;
use std::net::IpAddr;

use crate::build::Places;
use crate::document::{Place, Report, entry_path};
use crate::model::{AuthType, Config, FALLBACK, RESERVED_DATABASES};
use crate::problem::{Conflict, Problem, ProblemKind, Problems, Warning, WarningKind};
use crate::tls::{SslMode, SslNegotiation};

impl Config {
    /// Checks a configuration that was changed after it was read, or made without a file.
    ///
    /// # Errors
    /// Every contradiction, without line numbers.
    pub fn check(&self) -> Result<Vec<Warning>, Problems> {
        let mut report = Report::new(self.source.as_deref().unwrap_or("".as_ref()));
        run(self, &Places::new(), &mut report);
        report.finish()
    }
}

/// Whether a listen address can be reached from this machine only: a loopback address, `localhost`, a directory.
pub(crate) fn is_local(address: &str) -> bool {
    let bare = address.strip_prefix('[').and_then(|a| a.split_once(']')).map_or(address, |(host, _)| host);
    let host = if bare.matches(':').count() == 1 { bare.split(':').next().unwrap_or(bare) } else { bare };
    host == "localhost" || host.starts_with('/') || host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

/// Bytes of a name that PostgreSQL looks at (`NAMEDATALEN`, less the zero at its end).
const NAME_LEN: usize = 63;

/// Runs every check.
pub(crate) fn run(config: &Config, places: &Places, report: &mut Report) {
    let mut check = Check { config, places, report };
    check.listeners();
    check.databases();
    check.pool_sizes();
    check.thresholds();
    check.fleet();
    check.tls();
    check.authentication();
    check.rules();
    check.users();
    check.names();
}

struct Check<'a> {
    config: &'a Config,
    places: &'a Places,
    report: &'a mut Report,
}

impl Check<'_> {
    /// `key` may be absent from the file: then the problem names the file only.
    fn conflict(&mut self, key: &str, conflict: Conflict) {
        let kind = ProblemKind::Conflict(conflict);
        match self.places.get(key) {
            Some(place) => self.report.problem(place, key, kind),
            None => {
                let file = self.config.source.clone();
                self.report.add(Problem { file, line: None, key: key.to_string(), kind });
            }
        }
    }

    fn warn(&mut self, key: &str, kind: WarningKind) {
        match self.places.get(key) {
            Some(place) => self.report.warning(place, key, kind),
            None => {
                let file = self.config.source.clone();
                self.report.add_warning(Warning { file, line: None, key: key.to_string(), kind });
            }
        }
    }

    fn listeners(&mut self) {
        let settings = &self.config.settings;
        if settings.listen_addr.is_empty() && settings.unix_socket_dir.is_none() {
            self.conflict("listen_addr", Conflict::NoListener);
        }
        for address in &settings.listen_addr {
            if let Err(kind) = crate::listen::listener(address, settings.listen_port) {
                self.problem("listen_addr", kind);
            } else if settings.auth_type == AuthType::Trust && !is_local(address) {
                self.warn("auth_type", WarningKind::TrustOnNetwork(address.clone()));
            }
        }
    }

    fn problem(&mut self, key: &str, kind: ProblemKind) {
        let place = self.places.get(key);
        let file = place.map(|p| p.file.to_path_buf()).or_else(|| self.config.source.clone());
        self.report.add(Problem { file, line: place.map(|p| p.line), key: key.to_string(), kind });
    }

    fn databases(&mut self) {
        if self.config.databases.is_empty() && !self.report.blames("databases") {
            self.conflict("databases", Conflict::NoDatabases);
        }
        for (name, database) in &self.config.databases {
            let path = entry_path("databases", name);
            if RESERVED_DATABASES.contains(&name.as_str()) {
                self.conflict(&path, Conflict::ReservedName);
            }
            if database.host.is_none() && !self.report.blames(&format!("{path}.host")) {
                self.conflict(&path, Conflict::NoHost);
            }
            if self.config.settings.auth_type == AuthType::Any && database.user.is_none() {
                self.conflict(&path, Conflict::NeedsForcedUser);
            }
            if let Some(place) = &database.auth_dbname {
                self.auth_database(&format!("{path}.auth_dbname"), place);
            }
            if database.password.is_some() && database.user.is_none() {
                self.warn(&format!("{path}.password"), WarningKind::PasswordWithoutUser);
            }
        }
    }

    fn auth_database(&mut self, key: &str, name: &str) {
        let is_one = self.config.database(name).is_some() && !RESERVED_DATABASES.contains(&name);
        if !name.is_empty() && !is_one && !self.report.blames("databases") {
            self.conflict(key, Conflict::AuthDatabase(name.into()));
        }
    }

    fn pool_sizes(&mut self) {
        let settings = &self.config.settings;
        let (min, size) = (settings.min_pool_size, settings.default_pool_size);
        self.pool_size("min_pool_size", ["min_pool_size", "default_pool_size"], min, size);
        for (name, database) in &self.config.databases {
            let path = entry_path("databases", name);
            let (own_min, own_size) = (format!("{path}.min_pool_size"), format!("{path}.pool_size"));
            // The key to blame is one that the entry itself gives.
            let (key, keys) = match (database.min_pool_size, database.pool_size) {
                (None, None) => continue,
                (Some(_), None) => (&own_min, [own_min.as_str(), "default_pool_size"]),
                (None, Some(_)) => (&own_size, ["min_pool_size", own_size.as_str()]),
                (Some(_), Some(_)) => (&own_min, [own_min.as_str(), own_size.as_str()]),
            };
            self.pool_size(key, keys, database.min_pool_size.unwrap_or(min), database.pool_size.unwrap_or(size));
        }
        for (name, user) in &self.config.users {
            // Without a size of its own it depends on the database.
            if let (Some(min), Some(size)) = (user.min_pool_size, user.pool_size) {
                let path = entry_path("users", name);
                let (own_min, own_size) = (format!("{path}.min_pool_size"), format!("{path}.pool_size"));
                self.pool_size(&own_min, [own_min.as_str(), own_size.as_str()], min, size);
            }
        }
    }

    /// `min` above `size`, unless the size is unlimited or one of the two keys is wrong anyway.
    fn pool_size(&mut self, key: &str, keys: [&str; 2], min: u32, size: u32) {
        if size != 0 && min > size && !keys.iter().any(|k| self.report.blames(k)) {
            self.conflict(key, Conflict::PoolSizes { min, size });
        }
    }

    fn thresholds(&mut self) {
        let settings = &self.config.settings;
        let known = !self.report.blames("budget_warning") && !self.report.blames("budget_critical");
        if known && settings.budget_warning > settings.budget_critical {
            self.conflict("budget_warning", Conflict::WarningAboveCritical);
        }
    }

    fn fleet(&mut self) {
        let settings = &self.config.settings;
        if !settings.fleet.is_empty() && settings.fleet_dbname.is_empty() {
            self.conflict("fleet_dbname", Conflict::FleetWithoutDatabase);
        }
    }

    fn tls(&mut self) {
        let settings = &self.config.settings;
        let client = settings.client_tls_sslmode;
        let pairs = [
            (
                "client_tls_cert_file",
                &settings.client_tls_cert_file,
                "client_tls_key_file",
                &settings.client_tls_key_file,
            ),
            (
                "server_tls_cert_file",
                &settings.server_tls_cert_file,
                "server_tls_key_file",
                &settings.server_tls_key_file,
            ),
        ];
        for (cert_key, cert, key_key, key) in pairs {
            match (cert, key) {
                (Some(_), None) => self.conflict(cert_key, Conflict::TlsHalf(key_key)),
                (None, Some(_)) => self.conflict(key_key, Conflict::TlsHalf(cert_key)),
                (None, None) if client != SslMode::Disable && cert_key == "client_tls_cert_file" => {
                    self.conflict("client_tls_sslmode", Conflict::TlsWithoutCertificate);
                }
                _ => {}
            }
        }
        if client.verifies() && settings.client_tls_ca_file.is_none() {
            self.conflict("client_tls_sslmode", Conflict::TlsWithoutAuthority("client_tls_ca_file"));
        }
        if settings.server_tls_sslnegotiation == SslNegotiation::Direct && !settings.server_tls_sslmode.is_strict() {
            self.conflict("server_tls_sslnegotiation", Conflict::DirectWithoutTls);
        }
        if settings.server_tls_sslmode.verifies() && settings.server_tls_ca_file.is_none() {
            self.conflict("server_tls_sslmode", Conflict::TlsWithoutAuthority("server_tls_ca_file"));
        }
    }

    fn authentication(&mut self) {
        let settings = &self.config.settings;
        match settings.auth_type {
            AuthType::Hba if settings.auth_hba_file.is_none() => self.conflict("auth_type", Conflict::HbaWithoutFile),
            AuthType::Hba if self.config.hba.is_none() => self.conflict("auth_type", Conflict::HbaNotRead),
            AuthType::Cert if !settings.client_tls_sslmode.verifies() => {
                self.conflict("auth_type", Conflict::CertWithoutTls);
            }
            AuthType::Cert if settings.listen_addr.iter().all(|address| address.starts_with('/')) => {
                self.warn("auth_type", WarningKind::CertWithoutTcp);
            }
            _ => {}
        }
        if settings.auth_type != AuthType::Hba {
            let files = [("auth_hba_file", &settings.auth_hba_file), ("auth_ident_file", &settings.auth_ident_file)];
            for (key, _) in files.iter().filter(|(_, file)| file.is_some()) {
                self.warn(key, WarningKind::UnusedRules);
            }
        }
    }

    fn rules(&mut self) {
        let config = self.config;
        // Another auth_type that was set while running leaves them as they are, and unused.
        let Some(hba) = config.hba.as_ref().filter(|_| config.settings.auth_type == AuthType::Hba) else { return };
        let maps: BTreeSet<&str> = config.ident.names().collect();
        if hba.rules().is_empty() {
            self.warn("auth_hba_file", WarningKind::NoRules);
        }
        let has_tls = config.settings.client_tls_sslmode != SslMode::Disable;
        for rule in hba.rules() {
            let place = Place { file: rule.file.clone(), line: rule.line };
            if rule.client_cert.is_some() && !(has_tls && config.settings.client_tls_ca_file.is_some()) {
                self.report.problem(&place, "", ProblemKind::Conflict(Conflict::RuleWithoutAuthority));
            } else if rule.is_for_tls() && !has_tls {
                self.report.warning(&place, "", WarningKind::RuleWithoutTls);
            }
            if let Some(map) = rule.map.as_ref().filter(|map| !maps.contains(map.as_str())) {
                self.report.warning(&place, "", WarningKind::UnknownMap(map.clone()));
            }
        }
    }

    fn users(&mut self) {
        let config = self.config;
        let (settings, users) = (&config.settings, &config.users);
        if settings.auth_type == AuthType::Any {
            return;
        }
        self.auth_database("auth_dbname", &settings.auth_dbname);
        let asks = !settings.auth_user.is_empty() || config.databases.values().any(|d| d.auth_user.is_some());
        if users.is_empty() && !asks {
            return self.warn("users", WarningKind::NoUsers);
        }
        for (key, names) in [("admin_users", &settings.admin_users), ("stats_users", &settings.stats_users)] {
            for name in names.iter().filter(|name| !asks && !users.contains_key(*name)) {
                self.warn(key, WarningKind::UnknownConsoleUser(name.clone()));
            }
        }
        self.auth_places();
        if settings.auth_type == AuthType::ScramSha256 {
            for (name, _) in users.iter().filter(|(_, u)| u.password.as_ref().is_some_and(|p| p.is_md5())) {
                self.warn(&(entry_path("users", name) + ".password"), WarningKind::Md5SecretForScram);
            }
        }
    }

    /// What clients ask for is cut, as PostgreSQL cuts it.
    fn names(&mut self) {
        let config = self.config;
        let databases = config.databases.keys().map(|name| ("databases", name));
        let users = config.users.keys().map(|name| ("users", name));
        for (parent, name) in databases.chain(users).filter(|(_, name)| name.len() > NAME_LEN) {
            self.warn(&entry_path(parent, name), WarningKind::LongName);
        }
    }

    /// Who owns a database can make the query return there what they like.
    fn auth_places(&mut self) {
        let config = self.config;
        let names = config.databases.keys().filter(|name| *name != FALLBACK);
        let asked = names.filter(|name| config.auth_user(name).is_some() && config.auth_query(name).1.is_none());
        match asked.count() {
            0 | 1 => {}
            count => self.warn("auth_dbname", WarningKind::AskedInEach(count)),
        }
    }
}

/// Whether a name may be a database in the configuration.
pub(crate) fn is_reserved(name: &str) -> bool {
    name == FALLBACK || RESERVED_DATABASES.contains(&name)
}
