"""Speed as ratios from one run: ``python -m bench NAME [--json]``. Rows are {name, value, target, holds}."""
