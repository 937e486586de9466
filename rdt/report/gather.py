"""Runs gathered into comparisons: seeds of one thing into a group, groups on the same prompts side by side."""

import json
import shlex
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from rdt.pareto import bootstrap_mean, paired_difference
from rdt.report.fronts import Comparison, Group
from rdt.report.records import Run
from rdt.result import Point, Score

# A run that differs from another only here is another seed of the same thing.
INCIDENTAL = {"seed", "output_dir", "resume", "tags", "dry_run", "micro_batch_size", "devices", "num_nodes",
              "precision", "method", "reward", "model", "overrides"}  # fmt: skip
INCIDENTAL_GROUPS = {"hydra", "logger", "trainer"}


def compare(runs: Iterable[Run]) -> list[Comparison]:
    """One comparison per model, set of prompts and number of images per prompt."""
    worlds: dict[tuple, list[Run]] = defaultdict(list)
    for run in runs:
        worlds[run.model, run.base.prompts or run.base.n_prompts, run.base.n_per_prompt].append(run)
    return [_comparison(members) for members in worlds.values()]


def overrides(run: Run) -> list[str] | None:
    """What the user typed for this run, where config.yaml records it."""
    typed = run.config.get("overrides")
    typed = shlex.split(typed) if isinstance(typed, str) else typed
    return [str(item) for item in typed] if isinstance(typed, list) else None


def _comparison(runs: list[Run]) -> Comparison:
    rewards = tuple(dict.fromkeys(name for run in runs for name in _rewards(run)))
    scores = dict.fromkeys(name for run in runs for name in run.base.scores if name.startswith("diversity/"))
    diversity = "diversity/entropy" if "diversity/entropy" in scores or not scores else next(iter(scores))
    limits = [run.limit for run in runs if run.limit]
    base = runs[0].base
    return Comparison(
        runs[0].model, base.n_prompts, base.n_per_prompt, diversity, rewards, _over_seeds([run.base for run in runs]),
        _groups(runs), limits[0] if limits else None,
    )  # fmt: skip


def _rewards(run: Run) -> list[str]:
    """The reward that was optimised and, where measured, the gold one; else whatever reward there is."""
    measured = [name for name in run.base.scores if name.startswith("reward/")]
    wanted = [name for name in (f"reward/{run.reward}", "reward/gold") if name in measured]
    return wanted or measured[:1]


def _groups(runs: list[Run]) -> tuple[Group, ...]:
    members: dict[tuple, list[tuple[Run, Point]]] = defaultdict(list)
    for run in runs:
        for point in run.points:
            ended = (
                {} if run.config.get("max_passes") else {"iterations": run.iterations}
            )  # else seeds may differ in it
            settings = _settings(run) | {"reward": run.reward, "label": point.label} | ended
            settings |= {f"guidance.{key}": value for key, value in point.guidance.items()}
            members[run.method, json.dumps(settings, sort_keys=True, default=str)].append((run, point))
    varying = _varying([(method, json.loads(text)) for method, text in members])
    return tuple(
        _group(method, _said(json.loads(text), varying[method]), pairs)
        for (method, text), pairs in sorted(members.items(), key=lambda item: item[0])
    )


def _said(settings: dict[str, Any], varying: list[str], most: int = 2) -> str:
    """What a group chose of what varies, the first few of it; what it left at its default goes without saying."""
    chosen = [_setting(key, settings[key]) for key in varying if key in settings]
    more = f"  +{len(chosen) - most}" if len(chosen) > most else ""
    return "  ".join(chosen[:most]) + more


def _setting(key: str, value: Any) -> str:
    """A label speaks for itself; anything else is named."""
    return str(value) if key == "label" else f"{key.rpartition('.')[2]} {value}"


def _group(method: str, setting: str, pairs: list[tuple[Run, Point]]) -> Group:
    runs, points = zip(*sorted(pairs, key=lambda pair: pair[0].seed), strict=True)
    return Group(
        method, f"{method} {setting}".strip(), setting, runs, points, _over_seeds(points, [run.base for run in runs])
    )


def _settings(run: Run) -> dict[str, Any]:
    """What the user chose, from the recorded overrides or else from the whole config; incidental keys left out."""
    typed = overrides(run)
    chosen = _flat(run.config) if typed is None else dict(item.lstrip("+~").partition("=")[::2] for item in typed)
    return {
        key: value for key, value in chosen.items()
        if key not in INCIDENTAL and key.partition(".")[0] not in INCIDENTAL_GROUPS
    }  # fmt: skip


def _flat(config: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    leaves: dict[str, Any] = {}
    for key, value in config.items():
        leaves |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return leaves


def _varying(groups: list[tuple[str, dict[str, Any]]]) -> dict[str, list[str]]:
    """Per method, the keys in which its groups differ; a label says it all where it differs by itself."""
    varying = {}
    for method in {name for name, _ in groups}:
        own = [settings for name, settings in groups if name == method]
        keys = sorted({key for settings in own for key in settings})
        differ = [key for key in keys if len({json.dumps(settings.get(key), default=str) for settings in own}) > 1]
        varying[method] = [key for key in differ if not (key.startswith("guidance.") and "label" in differ)]
    return varying


def _over_seeds(points: Sequence[Point], bases: Sequence[Point] = ()) -> dict[str, Score]:
    """Scores over the seeds of one thing: their own where there is one, else bootstrapped over seeds and prompts."""
    if len(points) == 1:
        return dict(points[0].scores)
    shared = [name for name in points[0].scores if all(name in point.scores for point in (*points, *bases))]
    return {name: _over_runs(_rows(points, name), _rows(bases, name) if bases else None) for name in shared}


def _over_runs(rows: list[list[float]], base: list[list[float]] | None) -> Score:
    paired = base is not None and [len(row) for row in base] == [len(row) for row in rows]
    return Score(bootstrap_mean(rows, seed=0), paired_difference(rows, base, seed=0) if paired else None)


def _rows(points: Sequence[Point], name: str) -> list[list[float]]:
    """One score of every run by prompt (S, P), or its mean (S, 1) where the prompts do not match."""
    rows = [point.per_prompt.get(name) or [] for point in points]
    ragged = not rows[0] or len({len(row) for row in rows}) > 1
    if ragged or not np.isfinite(np.array(rows, dtype=float)).all():
        return [[point.scores[name].value.mean] for point in points]
    return rows
