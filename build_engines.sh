#!/bin/sh
# Fetch and prepare the models of the recipes named, or of all recipes that need no model of your own.
# Options of `vedette engines fetch` may follow the names. See `vedette engines list` and `vedette engines fetch --help`.
set -eu
[ "$#" -gt 0 ] || set -- --all
exec vedette engines fetch "$@"
