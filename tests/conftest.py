"""What all tests share."""

from tests.helpers import fault_table


def pytest_terminal_summary(terminalreporter):
    """Print what each fault cost, when fault tests ran."""
    if table := fault_table.lines():
        terminalreporter.section("faults: what was committed, and what became of it")
        for line in table:
            terminalreporter.write_line(line)
