#!/bin/sh
# Build the engines of all recipes that need no model of your own, or of the recipes named, on this very machine.
# Nothing is done here that `vedette engines build` does not do: its options may follow, see `./build_engines.sh --help`.
set -eu
here=$(dirname -- "$(readlink -f -- "$0")")

case ${1-} in
    "" | -*) set -- --all "$@" ;; # options only: all recipes
esac

if [ -x "$here/.venv/bin/vedette" ]; then
    exec "$here/.venv/bin/vedette" engines build "$@"
fi
if command -v vedette >/dev/null 2>&1; then
    exec vedette engines build "$@"
fi
PYTHONPATH=$here${PYTHONPATH:+:$PYTHONPATH}
export PYTHONPATH
if python3 -m agent --version >/dev/null 2>&1; then
    exec python3 -m agent engines build "$@"
fi
cat >&2 <<TEXT
build_engines.sh: vedette is not installed: neither $here/.venv/bin/vedette nor a command \`vedette\` is there,
and python3 lacks what it needs
  mend: cd '$here' && python3 -m venv --system-site-packages .venv && .venv/bin/pip install -e '.[build]'
        (on a machine without TensorRT: '.[cpu,build]'; on a Jetson: '.[jetson,build]')
TEXT
exit 127
