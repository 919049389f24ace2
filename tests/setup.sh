#!/usr/bin/env bash
# Installs what the tests with real clients and servers need, into a folder outside the repository.
#
#   tests/setup.sh             the SDKs of OpenAI, Anthropic, AWS, Google for Python (about 130 MB, seconds)
#   tests/setup.sh --clients   also those for Node, and AWS's for Rust               (about 400 MB more, a minute)
#   tests/setup.sh --server    also llama.cpp's server and a tiny model              (about 200 MB more, seconds)
#   tests/setup.sh --checks    also cargo-deny, as a program                         (about 15 MB more, seconds)
#
# The folder is $WINDWARD_CACHE, or ~/.cache/windward. It needs python3 with venv, and for --clients also Node 20 or later, npm and
# cargo, which compiles tests/clients/rust. What is there already in the right version stays. Versions are pinned in
# tests/tools/requirements-*.txt and tests/clients/*/.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
cache=${WINDWARD_CACHE:-$HOME/.cache/windward}
with_clients=false with_server=false with_checks=false
for option; do
    case "$option" in
        --clients) with_clients=true ;;
        --server) with_server=true ;;
        --checks) with_checks=true ;;
        *)
            sed -n '2,11s/^# \{0,1\}//p' "${BASH_SOURCE[0]}" >&2
            exit 2
            ;;
    esac
done

venv=$cache/venv
mkdir -p "$cache"
if [[ ! -x $venv/bin/pip ]]; then
    rm -rf "$venv"
    python3 -m venv "$venv"
fi
wanted=(-r "$here/tools/requirements-sdk.txt")
if $with_server; then
    wanted+=(-r "$here/tools/requirements-server.txt")
fi
if $with_checks; then
    wanted+=(-r "$here/tools/requirements-checks.txt")
fi
"$venv/bin/pip" install --quiet --disable-pip-version-check --only-binary :all: "${wanted[@]}"
if $with_server; then
    # Beside its place and then moved there, so that an interrupted run leaves no half of a model.
    "$venv/bin/python" "$here/tools/make_gguf.py" "$cache/tiny.gguf.new"
    mv "$cache/tiny.gguf.new" "$cache/tiny.gguf"
fi
if $with_clients; then
    # As AWS's SDK asks for; an older one fails in the middle of a test, and says nothing of its age.
    node_version=$(node --version) || node_version=none
    if [[ ! $node_version =~ ^v([0-9]+)\. ]] || ((BASH_REMATCH[1] < 20)); then
        echo "tests/setup.sh --clients needs Node 20 or later, and found: $node_version" >&2
        exit 1
    fi
    mkdir -p "$cache/node"
    # npm writes beside the file that it reads.
    cp "$here/clients/node/package.json" "$cache/node/package.json"
    npm install --prefix "$cache/node" --silent --no-audit --no-fund --ignore-scripts
    cargo build --quiet --manifest-path "$here/clients/rust/Cargo.toml" --target-dir "$cache/rust"
fi
echo "ready in $cache"
