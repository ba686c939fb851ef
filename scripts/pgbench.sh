#!/usr/bin/env bash
# pgbench -S through pgsluice, through PgBouncer and without either, in turns, against a throw-away PostgreSQL: transactions per
# second, and CPU time of the pooler per transaction. Medians of PGBENCH_ROUNDS (5) runs of PGBENCH_SECONDS (3).
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/packages.sh
. scripts/cluster.sh

rounds=${PGBENCH_ROUNDS:-5}
seconds=${PGBENCH_SECONDS:-3}
work='' sluice_pid='' bouncer_pid='' postgres_pid=''

clean_up() {
    trap - EXIT INT TERM
    stop "$sluice_pid" KILL
    stop "$bouncer_pid" KILL
    [ -f "$work/data/postmaster.pid" ] && stop "$(head -n 1 "$work/data/postmaster.pid")" INT
    stop "$postgres_pid" INT
    [ -z "$work" ] || rm -rf "$work"
}
trap clean_up EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

bin=$(postgresql_bin) || { install_packages postgresql && bin=$(postgresql_bin); }
bouncer=${PGBOUNCER_BIN:-$(command -v pgbouncer || true)}
[ -n "$bouncer" ] || { install_packages pgbouncer && bouncer=$(command -v pgbouncer); }
choose_owner
cargo build --release --quiet --package pgsluice
sluice=${PGSLUICE_BIN:-${CARGO_TARGET_DIR:-target}/release/pgsluice}

work=$(mktemp -d)
chmod 777 "$work"
port=$(free_port 21000) sluice_port=$(free_port 22000) bouncer_port=$(free_port 23000)
unprivileged "$bin/initdb" -D "$work/data" -A trust -U bench >/dev/null
unprivileged "$bin/postgres" -D "$work/data" -p "$port" -c listen_addresses=127.0.0.1 -c "unix_socket_directories=$work" \
    -c fsync=off -c max_connections=300 >"$work/postgres.log" 2>&1 &
postgres_pid=$!
wait_until 20 "$bin/pg_isready" -h 127.0.0.1 -p "$port"
"$bin/pgbench" -i -q -s 5 -h 127.0.0.1 -p "$port" -U bench postgres >"$work/init.log" 2>&1

ini() { # port
    printf '[databases]\n* = host=127.0.0.1 port=%s\n[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = %s\nauth_type = trust\n' "$port" "$1"
    printf 'auth_file = %s/users\npool_mode = transaction\ndefault_pool_size = 20\nmax_client_conn = 2000\nlog_connections = 0\nlog_disconnections = 0\n' "$work"
}
echo '"bench" ""' >"$work/users"
ini "$sluice_port" >"$work/sluice.ini"
ini "$bouncer_port" >"$work/bouncer.ini"
# Before 1.21 it has no prepared statements in transaction mode, and does not know the key.
minor=$("$bouncer" --version | sed -n '1s/^PgBouncer 1\.\([0-9]*\).*/\1/p')
modes=(simple extended)
if [ "${minor:-0}" -ge 21 ]; then
    echo 'max_prepared_statements = 200' >>"$work/bouncer.ini"
    modes+=(prepared)
fi
chmod 644 "$work"/*.ini "$work/users"
"$sluice" "$work/sluice.ini" >"$work/sluice.log" 2>&1 &
sluice_pid=$!
as=()
[ "$(id -u)" -ne 0 ] || as=(-u "$owner")
"$bouncer" "${as[@]}" "$work/bouncer.ini" >"$work/bouncer.log" 2>&1 &
bouncer_pid=$!
for p in "$sluice_port" "$bouncer_port"; do
    wait_until 10 "$bin/psql" -X -h 127.0.0.1 -p "$p" -U bench -d postgres -c 'SELECT 1'
done

cpu() { # µs of CPU time of this process so far
    awk '{ s += $1 } END { printf "%d", s / 1000 }' /proc/"$1"/task/*/schedstat
}

run() { # name port pid clients mode: appends a line to a file of figures
    local before after said
    before=$([ -z "$3" ] && echo 0 || cpu "$3")
    said=$("$bin/pgbench" -S -n -T "$seconds" -c "$4" -j 1 -M "$5" -h 127.0.0.1 -p "$2" -U bench postgres 2>/dev/null)
    after=$([ -z "$3" ] && echo 0 || cpu "$3")
    awk -v spent=$((after - before)) '/actually processed/ { n = $NF } /^tps/ { tps = $3 } END { print tps, spent / n }' \
        <<<"$said" >>"$work/$1-$4-$5"
}

median() { # file column
    awk -v c="$2" '{ print $c }' "$1" | sort -g | awk '{ v[NR] = $1 } END { print v[int((NR + 1) / 2)] }'
}

echo "$(uname -sr), load average $(cut -d ' ' -f 1-3 /proc/loadavg), $rounds rounds of $seconds s; $("$bin/postgres" --version); $("$bouncer" --version | head -n 1)"
echo
echo '| mode | clients | direct, tps | pgsluice, tps | PgBouncer, tps | pgsluice to PgBouncer | pgsluice, CPU µs | PgBouncer, CPU µs | ratio |'
echo '|---|---|---|---|---|---|---|---|---|'
for mode in simple extended prepared; do
    for clients in 1 16 90; do
        with_bouncer=$([[ " ${modes[*]} " == *" $mode "* ]] && echo yes || true)
        for ((round = 0; round < rounds; round++)); do
            run direct "$port" '' "$clients" "$mode"
            ((round % 2 == 0)) || run sluice "$sluice_port" "$sluice_pid" "$clients" "$mode"
            [ -z "$with_bouncer" ] || run bouncer "$bouncer_port" "$bouncer_pid" "$clients" "$mode"
            ((round % 2)) || run sluice "$sluice_port" "$sluice_pid" "$clients" "$mode"
        done
        direct=$(median "$work/direct-$clients-$mode" 1)
        ours=$(median "$work/sluice-$clients-$mode" 1) ours_cpu=$(median "$work/sluice-$clients-$mode" 2)
        if [ -z "$with_bouncer" ]; then
            printf '| %s | %s | %.0f | %.0f | – | – | %.1f | – | – |\n' "$mode" "$clients" "$direct" "$ours" "$ours_cpu"
        else
            theirs=$(median "$work/bouncer-$clients-$mode" 1) theirs_cpu=$(median "$work/bouncer-$clients-$mode" 2)
            awk -v m="$mode" -v c="$clients" -v d="$direct" -v o="$ours" -v t="$theirs" -v oc="$ours_cpu" -v tc="$theirs_cpu" \
                'BEGIN { printf "| %s | %s | %.0f | %.0f | %.0f | %.2f | %.1f | %.1f | %.2f |\n", m, c, d, o, t, o / t, oc, tc, oc / tc }'
        fi
    done
done
