"""The path of a training: how far its small evaluations, on a few training prompts, lie from the base's on the same.

The figures draw it from the base on. It need not end where the held-out evaluation does, which has other prompts.
"""

import csv
import math
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from rdt.report.compare import Comparison
from rdt.report.read import Run
from rdt.report.text import short

GAIN = "eval/gain/"  # of the columns of metrics.csv that hold a difference to the base
TRAINING = "the path of training, on a few training prompts"  # in legends
MOST = 4  # runs whose paths are drawn; more would hide the points


@dataclass(frozen=True)
class Trail:
    """Holds the differences of a run's small evaluations, in the order of training, by the short name of a score."""

    run: Run
    gains: dict[str, list[float]]

    def along(self, across: str, up: str) -> list[tuple[float, float]]:
        """Return the path in the plane of two scores, from the base on; empty if one of them was not measured."""
        sides = [self.gains.get(short(name), []) for name in (across, up)]
        return [(0.0, 0.0), *zip(*sides, strict=False)] if all(sides) else []


def paths_of(comparison: Comparison) -> list[Trail]:
    """Return the paths of the runs that have one; none if there are more than MOST runs."""
    runs = comparison.runs if len(comparison.runs) <= MOST else ()
    found = [Trail(run, _gains(run.path / "metrics.csv")) for run in runs]
    return [path for path in found if path.gains]


def _gains(file: Path) -> dict[str, list[float]]:
    """Return the columns of differences, rows without all of them left out; empty from the first row that is no CSV."""
    rows: list[dict[str, float]] = []
    if not file.is_file():
        return {}
    with file.open(newline="", encoding="utf-8", errors="replace") as stream, suppress(csv.Error):
        reader = csv.DictReader(stream)
        names = [name for name in reader.fieldnames or () if name.startswith(GAIN)]
        for row in reader:
            with suppress(TypeError, ValueError):
                values = {name.removeprefix(GAIN): float(row[name]) for name in names}
                if all(map(math.isfinite, values.values())):
                    rows.append(values)
    return {name.removeprefix(GAIN): [row[name.removeprefix(GAIN)] for row in rows] for name in names} if rows else {}
