#!/usr/bin/env bash
# PostgreSQL's own regression suite, directly and through pgsluice in transaction mode, with clients beside it that take
# every server in turn, so that the suite's clients are moved from one to another. Prints a table and fails when a test
# that passes directly fails through pgsluice without being explained in tests/regress-explained.txt.
#
#   scripts/regress.sh [test...]    the whole schedule, or test_setup and the named tests, one after the other
#
# REGRESS_RUNS names the runs (default "direct parallel serial"), PGSLUICE_BIN a built pgsluice. Everything it
# makes stays in target/regress: per run the results, regression.diffs and logs. See docs/regress.md.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/packages.sh
. scripts/cluster.sh

home=$PWD/target/regress
runs=${REGRESS_RUNS:-direct parallel serial}
tests=("$@")
postgres_pid='' sluice_pid='' shuffle_pid='' watchdog_pid='' work=''

stop_all() {
    stop "$watchdog_pid" TERM
    stop "$shuffle_pid" TERM
    stop "$sluice_pid" KILL
    # The postmaster's own pid: it may run under another user, through setpriv, which execs.
    [ -f "$work/data/postmaster.pid" ] && stop "$(head -n 1 "$work/data/postmaster.pid")" INT
    stop "$postgres_pid" INT
    watchdog_pid='' shuffle_pid='' sluice_pid='' postgres_pid=''
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

# ---- The parties

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

start_sluice() { # servers in the pool
    cat >"$work/pgsluice.toml" <<EOF
listen_addr = ["127.0.0.1"]
listen_port = $sluice_port
pool_mode = "transaction"
default_pool_size = $1
server_round_robin = true
auth_type = "trust"

[databases."*"]
host = "127.0.0.1"
port = $postgres_port

[users.postgres]
password = ""
EOF
    "$sluice" "$work/pgsluice.toml" >"$out/pgsluice.log" 2>&1 &
    sluice_pid=$!
    wait_until 10 grep -q "listening on 127.0.0.1:$sluice_port" "$out/pgsluice.log" || fail 'pgsluice did not start' "$out/pgsluice.log"
}

# Clients with settings of their own who take a server, see that nobody's state is on it, and give it back.
start_shuffle() { # port
    cat >"$work/shuffle.sql" <<'EOF'
SELECT 1 / (current_setting('search_path') = 'pg_catalog' AND current_setting('TimeZone') = 'Etc/GMT+7'
    AND current_setting('application_name') = 'shuffle' AND current_setting('IntervalStyle') = 'iso_8601'
    AND current_setting('enable_seqscan') = 'on' AND session_user = 'postgres' AND current_user = 'postgres'
    AND NOT EXISTS (SELECT FROM pg_prepared_statement() WHERE from_sql) AND NOT EXISTS (SELECT FROM pg_cursor())
    AND NOT EXISTS (SELECT FROM pg_listening_channels())
    AND NOT EXISTS (SELECT FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid())
    AND NOT EXISTS (SELECT FROM pg_depend WHERE refclassid = 'pg_namespace'::regclass AND refobjid = pg_my_temp_schema()))::int;
EOF
    PGAPPNAME=shuffle PGOPTIONS='-c search_path=pg_catalog -c TimeZone=Etc/GMT+7 -c IntervalStyle=iso_8601' \
        "$bin/pgbench" -n -c 3 -R 300 -T 100000 -f "$work/shuffle.sql" -h 127.0.0.1 -p "$1" -U postgres regression \
        >"$out/shuffle.log" 2>&1 &
    shuffle_pid=$!
}

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

run() { # name, pg_regress's --max-connections, servers in the pool (0: no pgsluice)
    say "Run: $1"
    out=$home/$1
    rm -rf "$out" "$work/out"
    mkdir -p "$out" "$work/out"
    [ "$(id -u)" -ne 0 ] || chown "$owner" "$work/out"
    start_postgres
    local port=$postgres_port what=(--schedule="$home/suite/parallel_schedule")
    if [ "$3" -gt 0 ]; then
        start_sluice "$3"
        port=$sluice_port
    fi
    [ ${#tests[@]} -eq 0 ] || what=(test_setup "${tests[@]}")
    start_shuffle "$port"
    start_watchdog
    # The server reads and writes files of the suite, too: all of it where $owner may go.
    (cd "$work/out" && unprivileged "$regress" --use-existing --bindir="$bin" --host=127.0.0.1 --port="$port" \
        --user=postgres --inputdir="$work/suite" --outputdir="$work/out" --dlpath="$work/suite" \
        --max-concurrent-tests=20 --max-connections="$2" "${what[@]}" >"$out/regress.log" 2>&1) || true
    if ! kill -0 "$shuffle_pid" 2>/dev/null || grep -q abort "$out/shuffle.log"; then
        echo "$1: a client beside the suite saw foreign state or an error, see shuffle.log" >>"$work/problems"
    fi
    stop_all
    cp -r "$work/out/." "$out"
    sed "s/^/$1: cancelled after 60 s: /" "$out/cancelled.log" >>"$work/problems"
    tail -n 20 "$out/regress.log" | grep -E '^ .*(passed|failed)' || fail 'pg_regress did not run' "$out/regress.log"
}

# ---- What came of it

# "test verdict" per line, from what pg_regress printed.
verdicts() { # run
    awk '{ for (i = 2; i < NF; i++) if ($i == "...") print $(i - 1), ($(i + 1) == "failed" ? "ignored" : $(i + 1)) }' \
        "$home/$1/regress.log"
}

# "test servers" per line: how many server processes ran a statement of that test's clients.
servers() { # run
    sed -nE 's/^[^[]*\[([0-9]+)\] pg_regress\/([^:]*): LOG:  (statement|execute).*/\2 \1/p' "$home/$1/postgres.log" |
        sort -u | awk '{ count[$1]++ } END { for (test in count) print test, count[test] }'
}

# Whether every line by which a result differs from what is expected is listed for that test in the file of explanations.
is_explained() { # run, test
    local differences
    differences=$(diff "$home/suite/expected/$2.out" "$home/$1/results/$2.out" | grep '^[<>]' || true)
    [ -n "$differences" ] || return 1
    awk -v test="$2" '/^[a-z]/ { mine = ($1 == test ":") } mine && /^  [<>]/ { print substr($0, 3) }' \
        tests/regress-explained.txt >"$work/allowed"
    ! grep -qvxF -f "$work/allowed" <<<"$differences"
}

# A table of all runs; the number of servers that a test's clients had stands behind its verdict. Writes what is wrong to
# $work/problems.
compare() {
    local name test verdict
    for name in $runs; do
        verdicts "$name" | while read -r test verdict; do
            [ "$verdict" != FAILED ] || ! is_explained "$name" "$test" || verdict=explained
            echo "verdict $name $test $verdict"
        done
        servers "$name" | sed "s/^/servers $name /"
    done | awk -v runs="$runs" -v problems="$work/problems" '
        BEGIN { n = split(runs, names, " ") }
        $1 == "servers" { servers[$3, $2] = $4; next }
        { if (!($3 in seen)) { seen[$3] = 1; order[++count] = $3 }; verdict[$3, $2] = $4 }
        function bad(test, name) { return verdict[test, name] != "ok" && verdict[test, name] != "ignored" }
        END {
            printf "\n  %-26s", "test"
            for (i = 1; i <= n; i++) printf " %-16s", names[i]
            for (t = 1; t <= count; t++) {
                test = order[t]; note = ""
                printf "\n  %-26s", test
                for (i = 1; i <= n; i++) {
                    name = names[i]; shown = verdict[test, name] == "" ? "not run" : verdict[test, name]
                    printf " %-9s %-6s", shown, "(" servers[test, name] + 0 ")"
                    if (bad(test, name)) failures[name]++
                    if (name == "direct") continue
                    if (servers[test, name] > 1) moved[name]++
                    if (!bad(test, name) || ("direct" == names[1] && bad(test, "direct"))) continue
                    if (verdict[test, name] == "explained") { explained[name]++; continue }
                    note = " NEW"; print test " fails in the run " name " and passes directly" >>problems
                }
                printf "%s", note
            }
            printf "\n\n"
            for (i = 1; i <= n; i++) {
                name = names[i]
                printf "  %s: %d of %d tests failed, %d of them as explained", name, failures[name], count, explained[name]
                if (name == "direct") { print ""; continue }
                printf "; the clients of %d tests were moved between servers\n", moved[name]
                if (count > 100 && moved[name] < count / 2)
                    print "in the run " name " too few clients were moved for it to prove anything" >>problems
            }
        }'
}

bin=$(postgresql_bin) || { install_packages postgresql && bin=$(postgresql_bin); }
major=$(basename "$(dirname "$bin")")
regress=/usr/lib/postgresql/$major/lib/pgxs/src/test/regress/pg_regress
missing=()
command -v cc >/dev/null || missing+=(gcc libc6-dev)
command -v dpkg-source >/dev/null || missing+=(dpkg-dev)
[ -x "$regress" ] || missing+=("postgresql-client-$major")
install_packages "${missing[@]}"
choose_owner
sluice=${PGSLUICE_BIN:-}
if [ -z "$sluice" ]; then
    say 'Building pgsluice (release)'
    cargo build --release --package pgsluice
    sluice=${CARGO_TARGET_DIR:-target}/release/pgsluice
fi
mkdir -p "$home"
fetch_suite
work=$(mktemp -d "${TMPDIR:-/tmp}/pgsluice-regress.XXXXXX")
chmod 711 "$work"
[ "$(id -u)" -ne 0 ] || chown "$owner" "$work"
cp -r "$home/suite" "$work/suite"
postgres_port=$(free_port 25432)
sluice_port=$(free_port 26432)
for name in $runs; do
    case $name in
    direct) run direct 0 0 ;;
    parallel) run parallel 0 25 ;;
    serial) run serial 1 3 ;;
    *) fail "unknown run $name" ;;
    esac
done
compare
say "Results and differences are in ${home#"$PWD"/}/{$(echo "$runs" | tr ' ' ',')}"
if [ -s "$work/problems" ]; then
    cat "$work/problems"
    exit 1
fi
