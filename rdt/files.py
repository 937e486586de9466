"""Files and folders that appear complete or not at all: written under a temporary name, then renamed."""

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


def check_writable(key: str, folder: Path) -> None:
    """Raise ValueError, naming the key that gave it, if a folder, which need not exist yet, cannot be written."""
    try:
        nearest = next(parent for parent in (folder, *folder.absolute().parents) if parent.exists())
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise ValueError(f"{key}={folder} cannot be written: {reason}") from None
    if not nearest.is_dir() or not os.access(nearest, os.W_OK):
        raise ValueError(f"{key}={folder} cannot be written: {nearest} is not a writable folder")


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; the file or folder written there then replaces `path`.

    If the body raises, the temporary is removed and `path` stays as it was.
    """
    unfinished = path.with_name(f".{path.name}.{os.getpid()}")
    remove(unfinished)
    try:
        yield unfinished
        replace(unfinished, path)
    finally:
        remove(unfinished)


def replace(finished: Path, path: Path) -> None:
    """Rename a finished file or folder to `path`, in place of what is there."""
    if path.is_dir():
        remove(path)
    os.replace(finished, path)


def write_text(path: Path, text: str) -> None:
    """Write a UTF-8 text file atomically."""
    with replacing(path) as unfinished:
        unfinished.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    """Write a JSON file atomically; ValueError if a number is not finite."""
    write_text(path, json.dumps(value, indent=1, allow_nan=False))


def remove(path: Path) -> None:
    """Remove a file or a folder, if it exists."""
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
