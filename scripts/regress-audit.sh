#!/usr/bin/env bash
# PostgreSQL's own regression suite, one script after the other and without pgsluice, but with a program in between that
# holds what the lexer says of each statement against what the statement did to its session. Fails when state changed that
# no audit would have looked for, and when a test fails.
#
#   scripts/regress-audit.sh [test...]    the whole schedule, or test_setup and the named tests
#
# Everything it makes stays in target/regress/audit; audit.log has each statement that the text alone does not explain.
# See docs/regress.md.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/suite.sh

tests=("$@")

find_suite_programs
say 'Building the check'
cargo build --package pgsluice-tests --bin regress_audit
prepare_suite
# Where $owner may run it.
cp "${CARGO_TARGET_DIR:-target}/debug/regress_audit" "$work"
port=$(free_port 26432)
say 'Run: audit'
out=$home/audit
start_run
start_watchdog
status=0
run_suite "$port" 1 "$work/regress_audit" "$port" "$postgres_port" "$work/out/audit.log" || status=$?
end_run
# A program that did not start has written nothing.
[ "$status" -eq 0 ] || echo 'the lexer was wrong, or could not be checked: see audit.log' >>"$work/problems"
verdicts audit | sed -n 's/ FAILED$/ fails/p' >>"$work/problems"
awk '/^[^ ]/ { shown = /^(MISSED|NOT ASKED|found as any|Counts)/ } shown' "$out/audit.log"
say "Results and differences are in ${out#"$PWD"/}"
if [ -s "$work/problems" ]; then
    cat "$work/problems"
    exit 1
fi
