#!/bin/sh
# Builds Windward by what it does under load (profile-guided optimisation): target/profiled/windward. `build.sh` has to have run.
#
# Three steps: a build that counts how often each piece of code runs, a minute of the workloads that `compare.py` measures, and a build
# that lays the code out by the counts. A chat request then takes a fifth fewer instructions and misses the code cache less often. The
# counts are of one compiler and one version of the sources, so they are made anew and are not kept in the repository. On x86 the program
# is for processors with AVX2 and BMI2 (x86-64-v3) where this one has them; `TARGET_CPU=x86-64` is for all.
#
#   rustup component add llvm-tools      # llvm-profdata of the compiler's own version; or LLVM_PROFDATA
set -e
cd "$(dirname "$0")/../.."
host=$(rustc -vV | sed -n 's/^host: //p')
tool=${LLVM_PROFDATA:-$(rustc --print sysroot)/lib/rustlib/$host/bin/llvm-profdata}
[ -x "$tool" ] || { echo "profiled.sh: no llvm-profdata at $tool: rustup component add llvm-tools, or name one in LLVM_PROFDATA" >&2; exit 1; }
out=$(pwd)/target/profiled
rm -rf "$out/counts"
mkdir -p "$out"

case $host in
x86_64*) [ -n "$TARGET_CPU" ] || ! grep -q ' avx2 .* bmi2 ' /proc/cpuinfo || TARGET_CPU=x86-64-v3 ;;
esac

# With --target, so that build scripts and macros are not counted.
build() { # FLAG OF THE COMPILER, TARGET FOLDER
    RUSTFLAGS="$RUSTFLAGS${TARGET_CPU:+ -Ctarget-cpu=$TARGET_CPU} $1" cargo build --release --locked --bin windward --target "$host" --target-dir "$2"
}

build "-Cprofile-generate=$out/counts" "$out/counting"
benches/peers/compare.py --proxies "windward=$out/counting/$host/release/windward" --rounds 1 --duration 3 \
    --workloads chat,chat-sat,sse,sse-unasked,sse-paced,mid,big,tls-sat,tls-sse,h2-sat,uptls-sat
"$tool" merge -o "$out/counts.profdata" "$out/counts"
build "-Cprofile-use=$out/counts.profdata" "$out/build"
cp "$out/build/$host/release/windward" "$out/windward"
echo "target/profiled/windward"
