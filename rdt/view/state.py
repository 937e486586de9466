"""What a folder of runs holds right now: which runs there are, how far they are, and what they have reached.

Files are read as data and only when they have changed. Nothing in the folder is written, locked or executed.
"""

import csv
import json
import os
import socket
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rdt import result
from rdt.config.recorded import ERROR, mapping
from rdt.report.read import Run, read_run, run_folders
from rdt.report.text import short
from rdt.result import digest
from rdt.text import folded, printable

METRICS, LOCK = "metrics.csv", ".lock"
WATCHED = (result.FILE, "config.yaml", METRICS, ERROR, LOCK)  # files whose change is news of a run
LARGEST = 50_000_000  # bytes of a file that is read
SILENT = 600  # seconds without news after which a run on another machine counts as stopped
WORD = 200  # characters of a text


@dataclass(frozen=True)
class RunState:
    """Holds what the page shows of a run."""

    path: Path
    shown: dict[str, Any]  # what becomes a row of the page
    run: Run | None  # once it is finished


class Folder:
    """Reads the runs at or below a folder, each again when one of its files has changed."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.known: dict[Path, tuple[tuple, RunState]] = {}

    def runs(self) -> dict[str, RunState]:
        """Return the runs by id, in order of path."""
        found = {}
        for path in run_folders([self.root]):
            mark = news(path)
            if path not in self.known or self.known[path][0] != mark or self.known[path][1].run is None:
                self.known[path] = mark, state_of(path, self._title(path))
            found[run_id(path)] = self.known[path][1]
        return found

    def version(self, ids: list[str]) -> str:
        """Return a digest that changes when one of the runs does."""
        runs = self.runs()
        return digest([[name, news(runs[name].path)] for name in ids if name in runs])

    def _title(self, path: Path) -> str:
        with suppress(ValueError):
            inside = path.relative_to(self.root)
            return printable(inside if inside.parts else path.resolve().name)
        return printable(path)


def run_id(path: Path) -> str:
    """Return the name of a run in addresses."""
    return digest(str(path))


def news(path: Path) -> tuple:
    """Return what changes when a run writes."""
    return tuple(_changed(path / name) for name in WATCHED)


def state_of(path: Path, title: str) -> RunState:
    """Return the state of a run folder; what cannot be read is said in its `note`."""
    shown: dict[str, Any] = {"id": run_id(path), "title": title, "note": "", "scores": {}}
    shown |= _configured(path) | {"updated": _updated(path)}
    if (path / ERROR).is_file():
        return RunState(path, shown | {"status": "failed", "note": _text(path / ERROR)}, None)
    if (path / result.FILE).is_file() and not is_running(path):
        try:
            run = read_run(path)
            return RunState(path, shown | _reached(run), run)
        except (OSError, ValueError) as error:
            return RunState(path, shown | {"status": "failed", "note": folded(error, WORD)}, None)
    return RunState(path, shown | _training(path), None)


def is_running(path: Path) -> bool:
    """Return whether a live process holds the run, as far as its lock file and the time of its last news tell."""
    lock = path / LOCK
    if lock.is_symlink() or not lock.is_file():
        return False
    with suppress(OSError, ValueError, TypeError, AttributeError, OverflowError):
        found = json.loads(_read(lock))
        if found.get("host") != socket.gethostname():
            return time.time() - _updated(path) < SILENT
        os.kill(int(found["pid"]), 0)
        return True
    return False


def _configured(path: Path) -> dict[str, Any]:
    """Return method, reward, model, seed, length and overrides of a run's config, so far as it has them."""
    try:
        tree = mapping(_read(path / "config.yaml")) if (path / "config.yaml").is_file() else {}
    except (OSError, ValueError):
        tree = {}
    named = {key: value.get("name") if isinstance(value := tree.get(key), dict) else None for key in CHOSEN}
    typed = tree.get("overrides")
    words = " ".join(str(word) for word in typed) if isinstance(typed, list) else ""
    length = tree.get("iterations")
    return {key: folded(value or "", WORD) for key, value in named.items()} | {
        "seed": folded(tree.get("seed", ""), WORD),
        "iterations": length if isinstance(length, int) else 0,
        "overrides": folded(words, WORD),
    }


CHOSEN = ("method", "reward", "model")


def _reached(run: Run) -> dict[str, Any]:
    """Return the scores of a finished run with their paired differences to the base."""
    found, scores = run.result, run.result.tuned.scores
    values = {
        short(name): [one.value.mean, one.diff.mean if one.diff is not None else None] for name, one in scores.items()
    }
    known = {"method": found.method, "reward": found.reward, "model": found.model, "seed": str(found.seed)}
    names = {key: folded(value, WORD) for key, value in known.items()}
    done = {"status": "finished", "iteration": found.iterations, "iterations": found.iterations}
    hacked = run.hacked(scores)
    return names | done | {"scores": values, "hacked": hacked}


def _training(path: Path) -> dict[str, Any]:
    """Return how far a run has come, and the newest value of everything that it logs."""
    newest: dict[str, float] = {}
    for row in _rows(path / METRICS):
        newest |= row
    iteration = int(newest.pop("iteration", -1)) + 1
    values = {name.rpartition("/")[2]: [value, None] for name, value in newest.items()}
    return {"status": "running" if is_running(path) else "stopped", "iteration": iteration, "scores": values}


def _rows(path: Path) -> Iterator[dict[str, float]]:
    """Yield the finite numbers of the rows of a metrics.csv."""
    with suppress(OSError, csv.Error):
        lines = _read(path).splitlines() if path.is_file() else []
        for row in csv.DictReader(lines):
            yield {name: value for name, cell in row.items() if name and (value := _number(cell)) is not None}


def _number(cell: Any) -> float | None:
    try:
        value = float(cell)
    except (TypeError, ValueError):
        return None
    return value if abs(value) < 1e300 else None


def _read(path: Path) -> str:
    """Return the text of a regular file; OSError if it is too large."""
    if not path.is_file() or path.stat().st_size > LARGEST:
        raise OSError(f"{path.name} is no file of at most {LARGEST} bytes")
    return path.read_text("utf-8", errors="replace")


def _text(path: Path) -> str:
    with suppress(OSError):
        return folded(_read(path), WORD)
    return ""


def _changed(path: Path) -> list[int]:
    with suppress(OSError):
        found = path.stat()
        return [found.st_mtime_ns, found.st_size]
    return []


def _updated(path: Path) -> float:
    """Return when a run wrote last, in seconds since 1970."""
    times = [found[0] / 1e9 for name in WATCHED if name != LOCK and (found := _changed(path / name))]
    return max(times, default=0.0)
