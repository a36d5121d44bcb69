# Two commands set a fresh machine up by themselves: `make demo` and `make test`.
# PYTHON=python3.11 chooses the interpreter (3.10 to 3.12), VENV=path the environment.
# JOBS: that many test processes side by side; a file's tests stay together.
PYTHON ?=
VENV ?= .venv
JOBS ?= 2
BIN := $(VENV)/bin
export PYTHON VENV

.PHONY: demo test test-all test-boxes matrix lint docs bench clean

demo: $(VENV)/.ready-cpu,build,fleet
	$(BIN)/vedette demo

# Everything that is quick: pure parts, real files, real sockets, a real RTSP camera where its bench is present. What fails
# runs once more by itself, and that is told: shared machines stall at times.
test: $(VENV)/.ready-dev
	deploy/dev/setup packages
	deploy/dev/twice quick -m "not slow" -n $(JOBS) --dist loadfile

# Everything, and the quick part again on each other Python (3.10 to 3.12) that is present.
test-all: lint test
	deploy/dev/setup packages all
	deploy/dev/slow

# All that runs in emulated machines, also what is too long for `make test-all`: installing, upgrading and rolling back by
# script on a real systemd.
test-boxes: $(VENV)/.ready-dev
	deploy/dev/setup packages all
	$(BIN)/pytest -m box --durations=20

matrix: $(VENV)/.ready-dev
	deploy/dev/matrix

lint: $(VENV)/.ready-dev
	$(BIN)/ruff check .
	$(BIN)/mypy

docs: $(VENV)/.ready-dev
	$(BIN)/python docs/reference.py > docs/configuration.md

bench: $(VENV)/.ready-dev
	$(BIN)/python -m bench loop
	$(BIN)/python -m bench start
	$(BIN)/python -m bench spool

$(VENV)/.ready-%: pyproject.toml deploy/dev/setup
	deploy/dev/setup venv "$*"
	touch "$@"

clean:
	rm -rf $(VENV) .cache demo-out dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
