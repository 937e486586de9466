"""The points of the interactive scatter: their scores, what they cost, and what hovering over one shows."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from rdt.report.fronts import Comparison, Group
from rdt.report.gather import overrides
from rdt.report.panel import INK, colour_of
from rdt.report.records import Run
from rdt.report.runs import command
from rdt.report.text import short
from rdt.result import Score

COSTS = ("passes", "TFLOP", "seconds")
SPOKEN_FOR = ("seed", "method", "output_dir")  # overrides that a point's name has said, or that change no score


def dots(comparison: Comparison, pictures: dict[str, str]) -> list[dict[str, Any]]:
    """The base, every group, and its seeds where there are several; pictures: by group, "" the base's, ids of grids."""
    spent = {name for group in comparison.groups for name in _cost(group.runs)}
    base = _dot("base", "base", "", INK, comparison.base, dict.fromkeys(spent, 0.0))
    found = [base | {"grid": pictures.get("")}]
    said = _differing(list({run.path: run for group in comparison.groups for run in group.runs}.values()))
    for group in comparison.groups:
        found += _of_group(group, colour_of(comparison, group.method), said, pictures.get(group.name))
    return found


def _of_group(group: Group, hue: str, said: dict[Path, str], grid: str | None) -> list[dict[str, Any]]:
    first, several = group.runs[0], len(group.points) > 1
    after = f"mean of {len(group.points)} seeds" if several else f"seed {first.seed}"
    drawn = {"grid": grid, "drawn": f"samples of seed {first.seed}" * several}
    mean = _dot("mean", f"{group.name} · {after}", group.method, hue, group.scores, _cost(group.runs))
    found = [mean | drawn | {"config": said[first.path] or group.setting, "command": command(first)}]
    for run, point in zip(group.runs, group.points, strict=True):
        if several:
            seed = _dot("seed", f"{group.name} · seed {run.seed}", group.method, hue, point.scores, _cost([run]))
            found.append(seed | drawn | {"config": said[run.path] or group.setting, "command": command(run)})
    return found


def _dot(
    kind: str, name: str, method: str, colour: str, scores: dict[str, Score], cost: dict[str, float]
) -> dict[str, Any]:
    values = {short(key): [s.value.mean, s.value.lo, s.value.hi] for key, s in scores.items()}
    values |= {key: [cost[key]] * 3 for key in COSTS if key in cost}
    return {"kind": kind, "name": name, "method": method, "colour": colour, "scores": values}


def _cost(runs: Sequence[Run]) -> dict[str, float]:
    """Training's network passes forward and backward, TFLOP and seconds: means of what every run recorded."""
    each = [_spent(run.compute) for run in runs]
    return {name: float(np.mean([cost[name] for cost in each])) for name in COSTS if all(name in cost for cost in each)}


def _spent(compute: dict[str, Any]) -> dict[str, float]:
    forward, backward = compute.get("network_passes"), compute.get("backward_passes") or 0
    passes = None if forward is None else forward + backward
    values = dict(zip(COSTS, (passes, compute.get("tflop"), compute.get("seconds")), strict=True))
    return {name: float(value) for name, value in values.items() if value is not None and np.isfinite(value)}


def _differing(runs: list[Run]) -> dict[Path, str]:
    """By run, what the user typed for it and not for all the others."""
    typed = {run.path: overrides(run) or [] for run in runs}
    shared = set.intersection(*map(set, typed.values()))
    return {path: "  ".join(w for w in words if w not in shared and _key(w) not in SPOKEN_FOR)
            for path, words in typed.items()}  # fmt: skip


def _key(override: str) -> str:
    return override.lstrip("+~").partition("=")[0]
