"""front.csv: one row per point."""

import csv
import io
import json
from collections.abc import Iterator
from typing import Any

from rdt.report.fronts import Comparison
from rdt.report.records import Run
from rdt.result import Point


def front_csv(comparisons: list[Comparison]) -> str:
    """One row per point of every run, its base included; a score has columns name, name_lo, name_hi and name_diff*."""
    rows = [
        _record(comparison, run, point, kind) for comparison in comparisons for run, point, kind in _points(comparison)
    ]
    header = dict.fromkeys(key for row in rows for key in row)
    out = io.StringIO()
    writer = csv.DictWriter(out, fieldnames=list(header), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue()


def _points(comparison: Comparison) -> Iterator[tuple[Run, Point, str]]:
    for run in {run.path: run for group in comparison.groups for run in group.runs}.values():
        yield run, run.base, "base"
        for point in run.points:
            yield run, point, "point"


def _record(comparison: Comparison, run: Run, point: Point, kind: str) -> dict[str, Any]:
    names = {id(p): group.name for group in comparison.groups for p in group.points}
    record: dict[str, Any] = {
        "path": run.path, "group": names.get(id(point), "base"), "kind": kind, "label": point.label,
        "method": run.method, "reward": run.reward, "model": run.model, "seed": run.seed, "iterations": run.iterations,
        "guidance": json.dumps(point.guidance), "n_prompts": point.n_prompts, "n_per_prompt": point.n_per_prompt,
        "seconds": run.compute.get("seconds"),
    }  # fmt: skip
    for name, score in point.scores.items():
        record |= {name: score.value.mean, f"{name}_lo": score.value.lo, f"{name}_hi": score.value.hi}
        if score.diff:
            record |= {
                f"{name}_diff": score.diff.mean,
                f"{name}_diff_lo": score.diff.lo,
                f"{name}_diff_hi": score.diff.hi,
            }
    return record
