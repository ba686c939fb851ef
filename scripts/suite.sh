# Sourced by scripts that run PostgreSQL's regression suite: the suite itself, a cluster for it, and pg_regress. Who sources
# this has `set -euo pipefail`, the repository as its directory, $tests (the tests to run; none: all), and a function
# stop_more if it starts more than this does. All that is kept is in $home, for each run in $out.

. scripts/packages.sh
. scripts/cluster.sh

home=$PWD/target/regress
postgres_pid='' watchdog_pid='' work='' out=''

stop_more() { :; }

stop_all() {
    stop "$watchdog_pid" TERM
    stop_more
    # The postmaster's own pid: it may run under another user, through setpriv, which execs.
    [ -f "$work/data/postmaster.pid" ] && stop "$(head -n 1 "$work/data/postmaster.pid")" INT
    stop "$postgres_pid" INT
    watchdog_pid='' postgres_pid=''
}

clean_up() {
    trap - EXIT INT TERM
    stop_all
    [ -z "$work" ] || rm -rf "$work"
}
trap clean_up EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

fail() { # message, log file
    echo "regress: $1" >&2
    [ -f "${2:-}" ] && tail -n 20 "$2" >&2
    exit 1
}

# ---- The suite, from Debian's source package

# apt-get with lists and sources of its own: source packages are enabled here and nowhere else.
private_apt() {
    APT_CONFIG=$home/apt/apt.conf apt-get -qq -o APT::Sandbox::User=root "$@"
}

prepare_apt() {
    local file
    mkdir -p "$home"/apt/{parts,lists/partial,cache/archives/partial}
    for file in /etc/apt/sources.list /etc/apt/sources.list.d/*.list; do
        [ ! -f "$file" ] || sed -nE 's/^deb(-src)?[[:space:]]/&/p' "$file" |
            sed -E 'h; s/^deb[[:space:]]/deb-src /; x; G' | sort -u >"$home/apt/parts/$(basename "$file" .list).list"
    done
    for file in /etc/apt/sources.list.d/*.sources; do
        [ ! -f "$file" ] || sed -E 's/^Types:.*/Types: deb deb-src/' "$file" >"$home/apt/parts/$(basename "$file")"
    done
    cat >"$home/apt/apt.conf" <<EOF
Dir::Etc::SourceList "/dev/null";
Dir::Etc::SourceParts "$home/apt/parts";
Dir::State::Lists "$home/apt/lists";
Dir::Cache "$home/apt/cache";
EOF
    private_apt update
}

# Fetches the suite of the installed PostgreSQL's very version into $home/suite and builds its three libraries with the
# headers of Debian's development package, which is unpacked and not installed: it would bring a compiler of its own.
fetch_suite() {
    local version source
    version=$(dpkg-query -W -f '${Version}' "postgresql-$major")
    [ "$(cat "$home/suite/version" 2>/dev/null)" != "$version" ] || return 0
    say "Fetching the source package of PostgreSQL $version"
    rm -rf "$home/suite" "$home/fetch"
    mkdir -p "$home/suite" "$home/fetch"
    prepare_apt
    (cd "$home/fetch" && private_apt source "postgresql-$major=$version" >source.log 2>&1 &&
        private_apt download "postgresql-server-dev-$major=$version" >>source.log 2>&1 &&
        dpkg-deb -x postgresql-server-dev-*.deb headers) || fail 'the source package could not be had' "$home/fetch/source.log"
    source=$(echo "$home"/fetch/postgresql-"$major"-*/)
    cp -r "$source"/src/test/regress/{sql,expected,data,parallel_schedule,resultmap} "$home/suite"
    for file in src/test/regress/regress.c contrib/spi/refint.c contrib/spi/autoinc.c; do
        cc -shared -fPIC -O2 -w -DREFINT_VERBOSE -I "$home/fetch/headers/usr/include/postgresql/$major/server" \
            -o "$home/suite/$(basename "$file" .c).so" "$source/$file"
    done
    rm -rf "$home/fetch"
    echo "$version" >"$home/suite/version"
}

# ---- The cluster

start_postgres() {
    rm -rf "$work/data"
    (cd "$work" && unprivileged "$bin/initdb" --no-sync --auth=trust --username=postgres --encoding=UTF8 --no-locale \
        -D "$work/data" >"$work/initdb.log" 2>&1) || fail 'initdb failed' "$work/initdb.log"
    # The settings of pg_regress for clusters of its own; the log tells which servers a client had.
    cat >>"$work/data/postgresql.conf" <<EOF
listen_addresses = '127.0.0.1'
port = $postgres_port
unix_socket_directories = '$work'
max_connections = 100
max_prepared_transactions = 2
fsync = off
log_line_prefix = '%m [%p] %a: '
log_statement = all
EOF
    (cd "$work" && unprivileged "$bin/postgres" -D "$work/data" >"$out/postgres.log" 2>&1) &
    postgres_pid=$!
    wait_until 20 psql_direct -c 'SELECT 1' || fail 'PostgreSQL did not start' "$out/postgres.log"
    # As pg_regress makes it; but it has to be there before pg_regress for the clients beside it.
    psql_direct -c 'CREATE DATABASE regression TEMPLATE template0'
    for setting in lc_messages=C lc_monetary=C lc_numeric=C lc_time=C bytea_output=hex timezone_abbreviations=Default; do
        psql_direct -c "ALTER DATABASE regression SET ${setting%=*} TO '${setting#*=}'"
    done
}

psql_direct() { "$bin/psql" -X -q -h "$work" -p "$postgres_port" -U postgres -d postgres "$@"; }

# A client that waits for a lock which its own session was to have given up would wait for ever.
start_watchdog() {
    while sleep 5; do
        psql_direct -A -t -c "SELECT application_name, query FROM
            (SELECT * FROM pg_stat_activity WHERE application_name LIKE 'pg_regress/%' AND state = 'active'
                AND query_start < now() - interval '60 s' OFFSET 0) AS stuck WHERE pg_cancel_backend(pid)"
    done >"$out/cancelled.log" 2>&1 &
    watchdog_pid=$!
}

# ---- One run

# A new cluster, and a place for the results. Before that the name of the run is to be told, and $out to be set.
start_run() {
    rm -rf "$out" "$work/out"
    mkdir -p "$out" "$work/out"
    [ "$(id -u)" -ne 0 ] || chown "$owner" "$work/out"
    start_postgres
}

run_suite() { # port, pg_regress's --max-connections, words in front of the command
    local port=$1 connections=$2 what=(--schedule="$home/suite/parallel_schedule")
    shift 2
    [ ${#tests[@]} -eq 0 ] || what=(test_setup "${tests[@]}")
    # The server reads and writes files of the suite, too: all of it where $owner may go.
    (cd "$work/out" && unprivileged "$@" "$regress" --use-existing --bindir="$bin" --host=127.0.0.1 --port="$port" \
        --user=postgres --inputdir="$work/suite" --outputdir="$work/out" --dlpath="$work/suite" \
        --max-concurrent-tests=20 --max-connections="$connections" "${what[@]}" >"$out/regress.log" 2>&1)
}

end_run() {
    stop_all
    cp -r "$work/out/." "$out"
    sed "s/^/$(basename "$out"): cancelled after 60 s: /" "$out/cancelled.log" >>"$work/problems"
    tail -n 20 "$out/regress.log" | grep -E '^ .*(passed|failed)' || fail 'pg_regress did not run' "$out/regress.log"
}

# "test verdict" per line, from what pg_regress printed.
verdicts() { # run
    awk '{ for (i = 2; i < NF; i++) if ($i == "...") print $(i - 1), ($(i + 1) == "failed" ? "ignored" : $(i + 1)) }' \
        "$home/$1/regress.log"
}

# ---- Before the first run

# Sets $bin, $major and $regress, and $owner.
find_suite_programs() {
    local missing=()
    bin=$(postgresql_bin) || { install_packages postgresql && bin=$(postgresql_bin); }
    major=$(basename "$(dirname "$bin")")
    regress=/usr/lib/postgresql/$major/lib/pgxs/src/test/regress/pg_regress
    command -v cc >/dev/null || missing+=(gcc libc6-dev)
    command -v dpkg-source >/dev/null || missing+=(dpkg-dev)
    [ -x "$regress" ] || missing+=("postgresql-client-$major")
    install_packages "${missing[@]}"
    choose_owner
}

# Makes $work and sets $postgres_port.
prepare_suite() {
    mkdir -p "$home"
    fetch_suite
    work=$(mktemp -d "${TMPDIR:-/tmp}/pgsluice-regress.XXXXXX")
    chmod 711 "$work"
    [ "$(id -u)" -ne 0 ] || chown "$owner" "$work"
    cp -r "$home/suite" "$work/suite"
    postgres_port=$(free_port 25432)
}
