"""The lock of a folder: one process at a time writes a run or a sweep into it, and others can read who does.

The system frees the lock of a process that dies, so a lock file that a killed process left is taken over.
"""

import json
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import count
from pathlib import Path

from filelock import FileLock, Timeout

from rdt.errors import UsageError

FILE = ".lock"
PATIENCE = 0.5  # seconds for another process that only looks whether the folder is locked


@contextmanager
def held(key: str, folder: Path, fresh: bool = False) -> Iterator[Path]:
    """Hold the lock of a folder, which is made, and yield the folder; UsageError if another process holds the lock.

    If `fresh`, the folder must be new: with -2, -3 ... behind its name if it exists. Folders that were made here and
    are empty at the end are removed.
    """
    made = [parent for parent in folder.parents if not parent.exists()]
    if fresh or not folder.exists():
        folder = _made(folder) if fresh else folder
        made = [folder, *made]
    folder.mkdir(parents=True, exist_ok=True)
    lock = _acquired(key, folder)
    try:
        with suppress(OSError):  # of a full disk: the lock holds without the words
            (folder / FILE).write_text(json.dumps(_self()), encoding="utf-8")
        yield folder
    finally:
        if _read(folder).get("pid") in (None, os.getpid()):  # not if the folder was removed and another run has it now
            (folder / FILE).unlink(missing_ok=True)
        lock.release()
        with suppress(OSError):
            for path in made:
                path.rmdir()


def _acquired(key: str, folder: Path) -> FileLock:
    """Return the lock of a folder, acquired; UsageError that says who holds it."""
    lock = FileLock(folder / FILE, timeout=PATIENCE)
    try:
        lock.acquire()
    except Timeout:
        by = _words(_read(folder))
        raise UsageError(f"{key}={folder} is in use by {by}; wait for its end, or take another folder") from None
    return lock


def holder(folder: Path) -> str | None:
    """Return in words who holds the lock of a folder; None if nobody does."""
    if not (folder / FILE).is_file():
        return None
    try:
        with FileLock(folder / FILE, timeout=0):
            return None
    except (Timeout, OSError):  # OSError: the folder cannot be written
        return _words(_read(folder))


def is_taken(folder: Path) -> bool:
    """Return whether the lock file of a folder names a process of a run other than this one's."""
    found = _read(folder)
    return bool(found) and (found.get("host"), found.get("pid")) not in {
        (socket.gethostname(), pid) for pid in (os.getpid(), os.getppid())
    }


def _made(folder: Path) -> Path:
    """Make a folder that did not exist, and return it."""
    for number in count(1):
        candidate = folder if number == 1 else folder.with_name(f"{folder.name}-{number}")
        with suppress(FileExistsError):
            candidate.mkdir(parents=True)
            return candidate
    raise AssertionError("count() does not end")


def _self() -> dict[str, str | int]:
    return {"host": socket.gethostname(), "pid": os.getpid(), "since": time.strftime("%Y-%m-%d %H:%M:%S")}


def _read(folder: Path) -> dict[str, str | int]:
    """Return what a lock file says; {} if it says nothing."""
    try:
        found = json.loads((folder / FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _words(found: dict[str, str | int]) -> str:
    if not found:
        return "another process"
    return f"process {found.get('pid')} on {found.get('host')} since {found.get('since')}"
