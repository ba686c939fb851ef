//! The state of a session through tokio-postgres, feature by feature: directly, which proves the test right, and through
//! a pool of two servers in transaction mode that other clients keep shuffling. Statements go by the extended protocol here,
//! most of them prepared for the occasion.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::time::Duration;

use pgsluice_tests::postgres::Login;
use pgsluice_tests::session_state::{Failure, Way, both_ways};
use pgsluice_tests::{APP, SUPERUSER, Version};

mod objects;
mod session;
mod settings;

use session::Place;

const LIMIT: Duration = Duration::from_secs(30);

/// Something that sessions can do.
struct Feature {
    name: &'static str,
    login: Login,
    work: fn(Place) -> Pin<Box<dyn Future<Output = ()>>>,
}

macro_rules! features {
    ($login:expr; $($module:ident::$name:ident),* $(,)?) => {
        [$(Feature { name: stringify!($name), login: $login, work: |place| Box::pin($module::$name(place)) }),*]
    };
}

fn features() -> Vec<Feature> {
    let mut all = Vec::from(features![APP;
        settings::set_and_show, settings::set_local, settings::reset, settings::reset_all, settings::set_time_zone,
        settings::set_role, settings::set_constraints, settings::search_path, settings::application_name,
        settings::client_encoding, settings::date_style, settings::statement_timeout,
        settings::default_transaction_settings, settings::custom_settings, settings::values_of_all_kinds,
        settings::set_config_in_a_select, settings::set_config_in_a_function, settings::set_config_in_do,
        settings::set_config_in_a_trigger, settings::startup_options, settings::startup_parameters,
        settings::set_in_transactions, settings::settings_in_a_pipeline,
        objects::sql_prepare_beside_the_protocols, objects::sql_prepare_in_transactions, objects::discard_all,
        objects::discard_parts, objects::temporary_tables, objects::temporary_tables_on_commit,
        objects::temporary_views_and_sequences, objects::advisory_locks, objects::advisory_locks_in_functions,
        objects::cursors_with_hold, objects::listen_and_notify, objects::unlisten, objects::values_of_sequences,
        objects::values_of_serial_columns, objects::large_objects, objects::two_phase_commit,
        objects::several_statements_at_once, objects::tables_that_change_under_prepared_statements,
    ]);
    all.extend(features![SUPERUSER; settings::set_session_authorization, objects::load]);
    all
}

/// What went wrong with all features, or with one.
fn check(way: &Way, only: Option<&str>) -> Vec<Failure> {
    let chosen = features().into_iter().filter(|feature| only.is_none_or(|name| name == feature.name));
    chosen.filter_map(|feature| try_it(way, &feature)).collect()
}

fn try_it(way: &Way, feature: &Feature) -> Option<Failure> {
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("a runtime");
    let attempt = || {
        let place = Place::new(way, feature.login);
        runtime.block_on(async { tokio::time::timeout(LIMIT, (feature.work)(place)).await })
    };
    let text = match catch_unwind(AssertUnwindSafe(attempt)) {
        Ok(Ok(())) => return None,
        Ok(Err(_)) => format!("it takes longer than {LIMIT:?}"),
        Err(panic) => told(&*panic),
    };
    Some(Failure { feature: feature.name.to_owned(), text })
}

fn told(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str).or_else(|| panic.downcast_ref::<&str>().copied());
    text.unwrap_or("a panic").replace('\n', " ")
}

#[test]
fn on_the_installed_version() {
    both_ways(Version::Installed, check);
}

#[test]
fn on_version_18() {
    both_ways(Version::V18, check);
}
