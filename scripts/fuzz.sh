#!/usr/bin/env bash
# Runs fuzz targets, each for a short time: scripts/fuzz.sh [seconds per target, 10 by default] [target ...]
# With a nightly toolchain the address sanitizer is on; without one, or with FUZZ_TOOLCHAIN=stable, it runs on stable.
set -euo pipefail
cd "$(dirname "$0")/.."

seconds=${1:-10}
shift || true
command -v cargo-fuzz >/dev/null || cargo install cargo-fuzz --locked

toolchain=${FUZZ_TOOLCHAIN:-nightly}
options=()
if [ "$toolchain" = nightly ] && ! cargo +nightly --version >/dev/null 2>&1; then
    toolchain=stable
fi
if [ "$toolchain" != nightly ]; then
    # Coverage counters are all that is left, which stable can do when it is told to.
    export RUSTC_BOOTSTRAP=1
    options=(--sanitizer none)
fi
cargo=(cargo)
if cargo "+$toolchain" --version >/dev/null 2>&1; then
    cargo=(cargo "+$toolchain")
fi

targets=("$@")
if [ ${#targets[@]} -eq 0 ]; then
    mapfile -t targets < <(cd fuzz && cargo fuzz list)
fi

found=$(mktemp -d)
trap 'rm -rf "$found"' EXIT
"${cargo[@]}" fuzz build "${options[@]}" >&2
for target in "${targets[@]}"; do
    echo "== $target, ${seconds} s"
    mkdir -p "$found/$target"
    # New inputs go to a directory of their own; the committed corpus is only read.
    if ! "${cargo[@]}" fuzz run "${options[@]}" "$target" "$found/$target" "fuzz/corpus/$target" -- \
        -max_total_time="$seconds" -max_len=4096 -timeout=10 -print_final_stats=0 -verbosity=0 2>"$found/log"; then
        cat "$found/log" >&2
        echo "$target failed; the input is in fuzz/artifacts/$target" >&2
        exit 1
    fi
done
echo "all targets ran without a failure"
