# Sourced by the other scripts: what they need from Debian, found or installed.

# Installs the named packages with apt-get, as root or through sudo; says what to do where neither will work.
# Does nothing without names.
install_packages() {
    [ $# -gt 0 ] || return 0
    local as_root=()
    if [ "$(id -u)" -ne 0 ]; then
        as_root=(sudo)
    fi
    if ! command -v apt-get >/dev/null || { [ ${#as_root[@]} -gt 0 ] && ! command -v sudo >/dev/null; }; then
        echo "Please install these Debian packages, or what your system calls them: $*" >&2
        return 1
    fi
    echo "installing $*"
    "${as_root[@]}" apt-get update -qq
    "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@"
}

# Prints the directory of PostgreSQL's programs: $PGSLUICE_PG_BIN, the newest of Debian's, or that of PATH.
# Fails when there is none.
postgresql_bin() {
    if [ -n "${PGSLUICE_PG_BIN:-}" ]; then
        echo "$PGSLUICE_PG_BIN"
    elif compgen -G '/usr/lib/postgresql/*/bin/initdb' >/dev/null; then
        dirname "$(printf '%s\n' /usr/lib/postgresql/*/bin/initdb | sort -V | tail -n 1)"
    elif command -v initdb >/dev/null && command -v pgbench >/dev/null; then
        dirname "$(command -v initdb)"
    else
        return 1
    fi
}
