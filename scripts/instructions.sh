#!/usr/bin/env bash
# Instructions per message of what every query passes: the crates wire, session and pool, without kernel and sockets. Counted by
# valgrind, so the same program gives the same count whatever else the machine does.
#
#     scripts/instructions.sh            compares with benches/instructions.tsv; more than 5 % above it is a failure
#     scripts/instructions.sh --record   writes that file anew
#
# Another compiler makes other code. Counts that were recorded with another one are shown beside and fail nothing.
set -euo pipefail
shopt -s inherit_errexit
cd "$(dirname "$0")/.."

recorded=benches/instructions.tsv
most=1.05 # of what is recorded
once=2000 twice=4000

. scripts/packages.sh
command -v valgrind >/dev/null || install_packages valgrind
cargo build --quiet --release -p pgsluice-session -p pgsluice-pool --examples
programs="${CARGO_TARGET_DIR:-target}/release/examples"

# $1: program, $2: scenario, $3: how often. Instructions in all.
count() {
    valgrind --tool=cachegrind --cache-sim=no --cachegrind-out-file=/dev/null "$programs/$1" "$2" "$3" 2>&1 |
        awk '/I *refs:/ { gsub(",", "", $NF); print $NF; found = 1 } END { exit !found }'
}

table() {
    for program in session_instructions pool_instructions; do
        "$programs/$program" | while IFS=$'\t' read -r scenario what; do
            # What starting and preparing takes is in both.
            a=$(count "$program" "$scenario" $once)
            b=$(count "$program" "$scenario" $twice)
            awk -v OFS='\t' -v s="$scenario" -v d=$((b - a)) -v n=$((twice - once)) -v w="$what" \
                'BEGIN { print s, sprintf("%.1f", d / n), w }'
        done
    done
}

compiler=$(rustc --version)
if [ "${1:-}" = --record ]; then
    counts=$(table)
    printf '# Instructions, recorded with %s; see scripts/instructions.sh.\n%s\n' "$compiler" "$counts" > $recorded
    cat $recorded
    exit
fi

counts=$(table)
grep -qF "recorded with $compiler;" $recorded && same=1 || same=0
printf '%-18s %12s %12s %7s\n' scenario instructions recorded ratio
awk -F'\t' -v most=$most -v same=$same '
    NR == FNR { if (!/^#/) was[$1] = $2; next }
    {
        ratio = was[$1] ? $2 / was[$1] : 0
        bad = !was[$1] || (same && ratio > most)
        printf "%-18s %12.1f %12s %7.3f%s\n", $1, $2, was[$1] ? was[$1] : "none", ratio, bad ? "  <-- " (was[$1] ? "too many" : "not recorded") : ""
        failed = failed || bad
    }
    END { exit failed }' $recorded <(printf '%s\n' "$counts") || {
    echo "More instructions than recorded. If there is a good reason, say so in the commit and record anew: scripts/instructions.sh --record" >&2
    exit 1
}
[ $same = 1 ] || echo "Recorded with another compiler ($(sed -n '1s/.*with \(.*\); see.*/\1/p' $recorded)): not compared."
