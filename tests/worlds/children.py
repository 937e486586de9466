"""Starts processes and waits for them, and ends what hangs: no time here is one that a loaded machine needs."""

import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

PATIENCE = 600.0  # seconds


def run(command: Sequence[Any], **options: Any) -> subprocess.CompletedProcess[str]:
    """Run a command to its end and return it with its output; TimeoutExpired if it hangs."""
    return subprocess.run(command, **{"capture_output": True, "text": True, "timeout": PATIENCE} | options)


@contextmanager
def started(command: Sequence[Any], **options: Any) -> Iterator[subprocess.Popen[str]]:
    """Yield a started process with pipes to it and from it; it is killed at the end, or earlier if it hangs."""
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, **options) as process:
        watch = threading.Timer(PATIENCE, process.kill)
        watch.start()
        try:
            yield process
        finally:
            watch.cancel()
            process.kill()


def until(condition: Callable[[], object]) -> None:
    """Wait until a condition holds; AssertionError if it never does."""
    last = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < last, "this does not happen"
        time.sleep(0.05)
