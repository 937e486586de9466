"""The errors that a user's input can cause, and their report: one line for each fault, and exit status 1.

RDT_TRACEBACK=1 shows the traceback in place of the line.
"""

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from rdt.text import folded, make_streams_safe

LONGEST = 2000  # characters of an error line


class UsageError(ValueError):
    """Says that a value or a file which the user gave cannot be used."""


class Refused(UsageError):
    """Says all that is wrong with a command, one line for each fault."""

    def __init__(self, faults: Sequence[str]) -> None:
        super().__init__("; ".join(faults))
        self.faults = tuple(faults)


class Terminated(InterruptedError):
    """Says that a signal stopped the run before it was done."""


class Diverged(FloatingPointError):
    """Says that a reward, a loss or a gradient is not finite."""


FORESEEN = (ValueError, OSError, FloatingPointError)


def to_stderr(line: str) -> None:
    """Print an error."""
    print(f"error: {line}", file=sys.stderr, flush=True)


@contextmanager
def one_line(report: Callable[[str], None] = to_stderr) -> Iterator[None]:
    """Report a foreseen error in one line per fault, by default on stderr, and exit with status 1."""
    make_streams_safe()
    try:
        yield
    except FORESEEN as error:
        if os.environ.get("RDT_TRACEBACK"):
            raise
        for fault in error.faults if isinstance(error, Refused) else [flat(error)]:
            report(folded(fault)[:LONGEST])
        sys.exit(1)
    except KeyboardInterrupt:
        report("interrupted")
        sys.exit(130)


def flat(error: BaseException) -> str:
    """Return an error's message on one line, without control characters."""
    message = str(error)
    if isinstance(error, OSError) and error.strerror:
        message = f"{error.strerror}: {error.filename}"
    return folded(message, LONGEST) or type(error).__name__
