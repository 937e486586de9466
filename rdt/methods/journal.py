"""A write-ahead journal of an oracle's calls: each batch is charged before the call, and its answers are kept after it.

One append-only file per rank holds a line per event: {"round", "rows"} before the oracle is called, the same with
"scores" once it has answered. A process that is killed in between has charged rows without an answer: the oracle may
have been called, so these rows are never called again, and a budget holds over any number of kills.
"""

import json
import os
from pathlib import Path
from typing import Any

from rdt import ranks


class Journal:
    """Holds what an oracle was called for and what it answered, by (round, row); without a folder, in memory alone."""

    def __init__(self, folder: Path | None) -> None:
        self.file = None if folder is None else folder / f"{ranks.here().rank}.jsonl"
        self.charged: set[tuple[int, int]] = set()
        self.scores: dict[tuple[int, int], float] = {}
        for file in sorted(folder.glob("*.jsonl")) if folder else ():
            self._read(file)

    def charge(self, round: int, rows: list[int]) -> None:
        """Write that the oracle is about to be called for rows of a round."""
        self._append({"round": round, "rows": rows})
        self.charged.update((round, row) for row in rows)

    def answer(self, round: int, rows: list[int], scores: list[float]) -> None:
        """Write what the oracle answered."""
        self._append({"round": round, "rows": rows, "scores": scores})
        self.scores.update(((round, row), score) for row, score in zip(rows, scores, strict=True))

    def _append(self, event: dict[str, Any]) -> None:
        """Append a line that is on the disk when this returns; a line that was cut off stays apart from it."""
        if self.file is None:
            return
        self.file.parent.mkdir(parents=True, exist_ok=True)
        with self.file.open("ab") as stream:
            stream.write(b"\n" + json.dumps(event).encode())
            stream.flush()
            os.fsync(stream.fileno())

    def _read(self, file: Path) -> None:
        """Add the events of a file; a line that was cut off by a kill is left out."""
        for line in file.read_bytes().splitlines():
            try:
                event = json.loads(line)
            except ValueError:
                continue
            keys = [(event["round"], row) for row in event["rows"]]
            self.charged.update(keys)
            self.scores.update(zip(keys, event.get("scores", ()), strict=False))
