#!/usr/bin/env bash
# Installs what the tests with real clients and servers need, into a folder outside the repository.
#
#   tests/setup.sh             the official SDKs of OpenAI and AWS       (about 90 MB, seconds)
#   tests/setup.sh --server    also llama.cpp's server and a tiny model  (about 200 MB more, seconds)
#
# The folder is $WINDWARD_CACHE, or ~/.cache/windward. It needs python3 with venv; nothing is compiled. What is there already in the
# right version stays. Versions are pinned in tests/tools/requirements-*.txt.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
cache=${WINDWARD_CACHE:-$HOME/.cache/windward}
with_server=false
case "${1:-}" in
    "") ;;
    --server) with_server=true ;;
    *)
        sed -n '2,8s/^# \{0,1\}//p' "${BASH_SOURCE[0]}" >&2
        exit 2
        ;;
esac

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
"$venv/bin/pip" install --quiet --disable-pip-version-check --only-binary :all: "${wanted[@]}"
if $with_server; then
    # Beside its place and then moved there, so that an interrupted run leaves no half of a model.
    "$venv/bin/python" "$here/tools/make_gguf.py" "$cache/tiny.gguf.new"
    mv "$cache/tiny.gguf.new" "$cache/tiny.gguf"
fi
echo "ready in $cache"
