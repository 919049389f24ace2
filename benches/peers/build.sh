#!/bin/sh
# Builds the load generators, the mock upstream and the minimal proxies into $BENCH_HOME, a cache folder outside the repository.
# With BENCH_QUICK=1 only what a comparison with nginx, HAProxy and Envoy needs.
set -e
cd "$(dirname "$0")"
BENCH_HOME=${BENCH_HOME:-${XDG_CACHE_HOME:-$HOME/.cache}/windward-bench}
BIN=${BENCH_BIN:-$BENCH_HOME/bin}
TARGET=${BENCH_TARGET:-$BENCH_HOME/target}
mkdir -p "$BIN"

build() { # CRATE, TARGET FOLDER, further arguments of cargo
    crate=$1 target=$2
    shift 2
    cargo build --release --locked --manifest-path "$crate/Cargo.toml" --target-dir "$target" "$@"
}

build wbench "$TARGET"
for b in wb-upstream wb-load wb-load-h2 wb-tcprelay wb-hyper; do
    cp "$TARGET/release/$b" "$BIN/"
done
[ -z "$BENCH_QUICK" ] || exit 0
for allocator in mi je; do
    build wbench "$TARGET" --features $allocator --bin wb-hyper
    cp "$TARGET/release/wb-hyper" "$BIN/wb-hyper-$allocator"
done
build pingora-fwd "$TARGET-pingora"
cp "$TARGET-pingora/release/pingora-fwd" "$BIN/"
