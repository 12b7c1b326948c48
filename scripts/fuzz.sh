#!/usr/bin/env bash
# Builds all fuzz targets and runs them one after the other, from seeds made of the test vectors.
#
#   scripts/fuzz.sh                     10 seconds each (scripts/test gives 3)
#   scripts/fuzz.sh SECONDS [TARGET..]  longer, or only these
#
# CI always takes the same seed, so that what it says is about the commit; FUZZ_SEED=0 takes a new one every time.
#
# Wants: a nightly toolchain, a C++ compiler, python3. Installs cargo-fuzz if it is missing. FUZZ_LOGS=DIR keeps a log per target
# there. What a target finds is left in fuzz/artifacts/TARGET; to run it again: cargo +nightly fuzz run TARGET FILE.
#
# No address sanitizer: there is no unsafe code of ours to watch, and without it the targets run several times as often. The targets
# count memory themselves.
set -euo pipefail
cd "$(dirname "$0")/.."

seconds=${1:-10}
shift || true

cargo fuzz --version >/dev/null 2>&1 || scripts/again cargo install cargo-fuzz --locked
scripts/again cargo fetch --quiet --locked --manifest-path fuzz/Cargo.toml --target "$(rustc -vV | sed -n 's/^host: //p')"
cargo fmt --manifest-path fuzz/Cargo.toml --check
scripts/fuzz_seeds.py

export CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-$PWD/target}/fuzz
cd fuzz
cargo +nightly fuzz build --sanitizer none

# Longest input, bytes: past every bound of the target, so that both sides of it are tried. Those that are not named have bounds below 4 KiB.
declare -A longest=(
    [upgrade]=20000   # heads: 8 KiB
    [ws]=70000        # messages: 65,535 bytes
    [package]=70000   # bodies: 65,535 bytes
    [handshake]=70000 # handshakes: 64 KiB
    [inflate]=70000   # bodies: 65,535 bytes
    [crypto]=70000    # bodies: 64 KiB
)

targets=("$@")
[ ${#targets[@]} -gt 0 ] || mapfile -t targets < <(cargo +nightly fuzz list)
logs=${FUZZ_LOGS:-$(mktemp -d)}
mkdir -p "$logs"
for target in "${targets[@]}"; do
    # A slow unit, a lot of memory, or a panic ends the run with an error and leaves the input behind.
    if ! cargo +nightly fuzz run --sanitizer none "$target" -- \
        -max_total_time="$seconds" -seed="${FUZZ_SEED:-1}" -timeout=30 -rss_limit_mb=2048 -max_len="${longest[$target]:-4096}" -print_final_stats=1 \
        >"$logs/$target.log" 2>&1; then
        tail -n 60 "$logs/$target.log"
        echo "fuzz target $target failed" >&2
        exit 1
    fi
    runs=$(sed -n 's/^stat::number_of_executed_units: *//p' "$logs/$target.log")
    printf '%-12s %10s runs in %s s\n' "$target" "$runs" "$seconds"
done
