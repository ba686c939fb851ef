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
. scripts/suite.sh

runs=${REGRESS_RUNS:-direct parallel serial}
tests=("$@")
sluice_pid='' shuffle_pid=''

stop_more() {
    stop "$shuffle_pid" TERM
    stop "$sluice_pid" KILL
    shuffle_pid='' sluice_pid=''
}

# ---- The parties

start_sluice() { # servers in the pool
    cat >"$work/pgsluice.toml" <<EOF
listen_addr = ["127.0.0.1"]
listen_port = $sluice_port
pool_mode = "transaction"
default_pool_size = $1
server_round_robin = true
auth_type = "trust"
# On a busy machine a client may wait so long that it is told.
query_wait_notify = 0

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

# ---- One run

run() { # name, pg_regress's --max-connections, servers in the pool (0: no pgsluice)
    say "Run: $1"
    out=$home/$1
    start_run
    local port=$postgres_port
    if [ "$3" -gt 0 ]; then
        start_sluice "$3"
        port=$sluice_port
    fi
    start_shuffle "$port"
    start_watchdog
    run_suite "$port" "$2" || true
    if ! kill -0 "$shuffle_pid" 2>/dev/null || grep -q abort "$out/shuffle.log"; then
        echo "$1: a client beside the suite saw foreign state or an error, see shuffle.log" >>"$work/problems"
    fi
    end_run
}

# ---- What came of it

# "test servers" per line: how many server processes ran a statement of that test's clients.
servers() { # run
    sed -nE 's/^[^[]*\[([0-9]+)\] pg_regress\/([^:]*): LOG:  (statement|execute).*/\2 \1/p' "$home/$1/postgres.log" |
        sort -u | awk '{ count[$1]++ } END { for (test in count) print test, count[test] }'
}

# Whether every line by which a result differs from what is expected is listed for that test in the file of explanations.
is_explained() { # run, test
    local differences
    differences=$(diff "$home/suite/expected/$2.out" "$home/$1/results/$2.out" | grep '^[<>]' | sed 's/ *$//' || true)
    [ -n "$differences" ] || return 1
    awk -v test="$2" '/^[a-z]/ { mine = ($1 == test ":") } mine && /^  [<>]/ { print substr($0, 3) }' \
        tests/regress-explained.txt >"$work/allowed"
    awk -v test="$2" '/^[a-z]/ { mine = ($1 == test ":") } mine && /^  ~/ { print substr($0, 5) }' \
        tests/regress-explained.txt >"$work/allowed-patterns"
    ! grep -vxF -f "$work/allowed" <<<"$differences" | grep -qvxE -f "$work/allowed-patterns"
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

find_suite_programs
sluice=${PGSLUICE_BIN:-}
if [ -z "$sluice" ]; then
    say 'Building pgsluice (release)'
    cargo build --release --package pgsluice
    sluice=${CARGO_TARGET_DIR:-target}/release/pgsluice
fi
prepare_suite
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
