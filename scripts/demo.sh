#!/usr/bin/env bash
# pgsluice in a minute: a throw-away PostgreSQL with 100 connection slots, pgsluice in front of it with a pool of
# ten, and 500 clients that notice nothing. Leaves both running to try by hand until Ctrl-C, then removes all.
# DEMO_ONCE=1 (or CI without a terminal) ends after the show. DEMO_CLIENTS and DEMO_SECONDS change the load.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/packages.sh
. scripts/cluster.sh

clients=${DEMO_CLIENTS:-500}
seconds=${DEMO_SECONDS:-10}
pool_size=10
postgres_pid='' sluice_pid='' bench_pid='' work=''

clean_up() {
    trap - EXIT INT TERM
    stop "$bench_pid" KILL
    stop "$sluice_pid" KILL
    # The postmaster's own pid: it may run under another user, through setpriv, which execs.
    [ -f "$work/data/postmaster.pid" ] && stop "$(head -n 1 "$work/data/postmaster.pid")" INT
    stop "$postgres_pid" INT
    [ -z "$work" ] || rm -rf "$work"
}
trap clean_up EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

fail() { # message, log file
    echo "demo: $1" >&2
    [ -f "${2:-}" ] && tail -n 20 "$2" >&2
    exit 1
}

# The named columns of a console command, by name, as a table.
show() { # command column...
    local command=$1
    shift
    psql_console -A -F '|' -c "$command" | awk -F '|' -v wanted="$*" '
        /^\(/ { next }
        NR == 1 { for (i = 1; i <= NF; i++) at[$i] = i; n = split(wanted, names, " ") }
        { line = ""
          for (i = 1; i <= n; i++) if (names[i] in at) line = line sprintf("%-" (length(names[i]) > 10 ? length(names[i]) + 2 : 12) "s", $at[names[i]])
          print "  " line }'
}

psql_console() { "$bin/psql" -X -q -d "$console_url" "$@"; }
backends() {
    "$bin/psql" -X -q -A -t -d "$superuser" -c \
        "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend' AND datname = 'demo'"
}

bin=$(postgresql_bin) || { install_packages postgresql && bin=$(postgresql_bin); }
choose_owner

sluice=${PGSLUICE_BIN:-}
if [ -z "$sluice" ]; then
    say 'Building pgsluice (release)'
    cargo build --release --package pgsluice
    sluice=${CARGO_TARGET_DIR:-target}/release/pgsluice
fi

say 'Starting a throw-away PostgreSQL with max_connections = 100'
work=$(mktemp -d "${TMPDIR:-/tmp}/pgsluice-demo.XXXXXX")
chmod 711 "$work"
[ "$(id -u)" -ne 0 ] || chown "$owner" "$work"
postgres_port=$(free_port 15432)
(cd "$work" && unprivileged "$bin/initdb" --no-sync --auth=trust --username=postgres --encoding=UTF8 -D "$work/data" >"$work/initdb.log" 2>&1) ||
    fail 'initdb failed' "$work/initdb.log"
printf 'local all all trust\nhost all all 127.0.0.1/32 scram-sha-256\n' >"$work/data/pg_hba.conf"
(cd "$work" && unprivileged "$bin/postgres" -D "$work/data" -k "$work" -p "$postgres_port" -c listen_addresses=127.0.0.1 \
    -c max_connections=100 -c fsync=off -c synchronous_commit=off >"$work/postgres.log" 2>&1) &
postgres_pid=$!
superuser="host=$work port=$postgres_port user=postgres dbname=postgres"
wait_until 20 "$bin/psql" -X -d "$superuser" -c 'SELECT 1' || fail 'PostgreSQL did not start' "$work/postgres.log"
"$bin/psql" -X -q -d "$superuser" -c "CREATE ROLE demo LOGIN PASSWORD 'demo'" -c 'CREATE DATABASE demo OWNER demo'
"$bin/pgbench" -i -q -s 1 "host=$work port=$postgres_port user=demo dbname=demo" >"$work/init.log" 2>&1 ||
    fail 'pgbench could not fill the database' "$work/init.log"
echo "  127.0.0.1:$postgres_port, in $work"

ulimit -n "$(ulimit -Hn)" 2>/dev/null || true
port=$(free_port 6432)
app_url="postgres://demo:demo@127.0.0.1:$port/demo"
console_url="postgres://demo:demo@127.0.0.1:$port/pgsluice"
command=("$sluice" "postgres://demo:demo@127.0.0.1:$postgres_port/demo" --listen "127.0.0.1:$port" --pool-size "$pool_size")
say "Starting pgsluice with a pool of $pool_size"
echo "  pgsluice ${command[*]:1}"
"${command[@]}" >"$work/pgsluice.log" 2>&1 &
sluice_pid=$!
wait_until 10 grep -q "listening on 127.0.0.1:$port" "$work/pgsluice.log" || fail 'pgsluice did not start' "$work/pgsluice.log"

say "$clients clients for $seconds s, each a connection of its own"
"$bin/pgbench" -n -S -M prepared -c "$clients" -j 2 -T "$seconds" "$app_url" >"$work/bench.log" 2>&1 &
bench_pid=$!
most=0
for look in 1 2; do
    sleep "$((seconds / 3))"
    count=$(backends)
    [ "$count" -le "$most" ] || most=$count
    printf '\n  PostgreSQL processes serving the database: %s\n' "$count"
    echo '  SHOW POOLS:'
    show 'SHOW POOLS' database user cl_active cl_waiting sv_active sv_idle maxwait pool_mode
done
printf '\n  SHOW BUDGET:\n'
psql_console -x -c 'SHOW BUDGET' | sed 's/^/  /'
wait "$bench_pid" || fail 'pgbench had errors' "$work/bench.log"
bench_pid=''

say 'What the clients saw'
grep -E '^(number of clients|number of transactions|number of failed|latency average|tps)' "$work/bench.log" | sed 's/^/  /'
echo "  $clients clients were served by at most $most PostgreSQL processes at a time: the pool of $pool_size, and one that reads the limits."

if [ "${DEMO_ONCE:-}" = 1 ] || { [ -n "${CI:-}" ] && [ ! -t 0 ]; }; then
    exit 0
fi
say 'Both keep running. Try, in another terminal:'
echo "  psql $app_url"
echo "  psql $console_url -c 'SHOW POOLS'"
say 'Ctrl-C ends everything and removes it.'
wait "$sluice_pid"
