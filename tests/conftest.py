"""What all tests share."""

import signal
from dataclasses import astuple

import hypothesis
import pytest

from tests.helpers import fault_table

# Machines are shared, and some tests run side by side: how long one example takes says nothing.
hypothesis.settings.register_profile("shared", deadline=None)
hypothesis.settings.load_profile("shared")

# A shell that starts these tests in the background (`pytest … &`, as deploy/dev/matrix does) has them ignore Ctrl-C, and
# their children would inherit that: a test that sends SIGINT would wait for a process that rightly does not listen.
signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_sessionfinish(session):
    """Hand over what faults cost, from a process of `-n`."""
    if hasattr(session.config, "workeroutput"):
        session.config.workeroutput["faults"] = [astuple(row) for row in fault_table.ROWS]


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node):
    """Take it from such a process."""
    fault_table.ROWS.extend(fault_table.Row(*row) for row in getattr(node, "workeroutput", {}).get("faults", ()))


def pytest_terminal_summary(terminalreporter):
    """Print what each fault cost, when fault tests ran."""
    if table := fault_table.lines():
        terminalreporter.section("faults: what was committed, and what became of it")
        for line in table:
            terminalreporter.write_line(line)
