"""Gives the scripts that compare two checkouts their command line: `record` one of them, or `diff` two recordings."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

Recording = dict[str, Any]  # by the name of a configuration


def run(record: Callable[[Path], Recording], compare: Callable[[Recording, Recording], int]) -> int:
    """Write the recording of a checkout into a file, or compare two such files; return the exit status."""
    verb, first, second = sys.argv[1:]
    if verb == "record":
        Path(second).write_text(json.dumps(record(Path(first).resolve()), indent=1), "utf-8")
        return 0
    before, after = (json.loads(Path(file).read_text("utf-8")) for file in (first, second))
    return compare(before, after)
