"""Errors at the door: one line with the value seen, exit status 1; RDT_TRACEBACK=1 shows where it came from."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager


class UsageError(ValueError):
    """Something the user typed or gave cannot be run as it is."""


@contextmanager
def one_line() -> Iterator[None]:
    """Turn the errors that inputs cause into one line on stderr and exit status 1."""
    try:
        yield
    except (ValueError, OSError, FloatingPointError, InterruptedError) as error:
        if os.environ.get("RDT_TRACEBACK"):
            raise
        print(f"error: {flat(error)}", file=sys.stderr)
        sys.exit(1)


def flat(error: BaseException) -> str:
    """An error's message on one line; Hydra's instantiate wraps the reason, which is what counts."""
    while error.__cause__ is not None and type(error).__module__.startswith("hydra"):
        error = error.__cause__
    if isinstance(error, OSError) and error.strerror:
        return f"{error.strerror}: {error.filename}"
    return " ".join(str(error).split()) or type(error).__name__
