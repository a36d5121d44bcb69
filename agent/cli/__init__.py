"""The ``vedette`` command. One file a command; each is imported only when it is called, so that asking is quick.

Exit codes: 0 well, 1 degraded, 2 down (also: standard output cannot be written), 64 wrong usage, 70 a defect,
78 configuration, 130 interrupted, 143 terminated.
"""

import sys
from collections.abc import Sequence

_EXIT_INTERRUPTED = 130  # what shells give for SIGINT


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit code. An error is one message on stderr, never a traceback."""
    try:
        from agent.cli.commands import command_line  # in here, so that Ctrl-C may come during its imports too

        return command_line(argv)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return _EXIT_INTERRUPTED
