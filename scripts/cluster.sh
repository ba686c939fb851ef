# Sourced by scripts that run a throw-away PostgreSQL and programs beside it.

say() { printf '\n\033[1m%s\033[0m\n' "$*"; }

stop() { # pid signal
    [ -n "$1" ] && kill -s "$2" "$1" 2>/dev/null && wait "$1" 2>/dev/null || true
}

free_port() { # first candidate
    local port=$1
    while (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null; do port=$((port + 1)); done
    echo "$port"
}

wait_until() { # seconds, command
    local left=$(($1 * 10))
    shift
    until "$@" >/dev/null 2>&1; do
        left=$((left - 1))
        [ "$left" -gt 0 ] || return 1
        sleep 0.1
    done
}

# PostgreSQL refuses to run as root. Sets $owner, the user that runs it.
choose_owner() {
    owner=$(id -un)
    if [ "$(id -u)" -eq 0 ]; then
        owner=postgres
        id "$owner" >/dev/null 2>&1 || owner=nobody
    fi
}

unprivileged() { # command, run as $owner
    if [ "$(id -u)" -ne 0 ]; then
        "$@"
    else
        setpriv --reuid="$owner" --regid="$(id -g "$owner")" --clear-groups "$@"
    fi
}
