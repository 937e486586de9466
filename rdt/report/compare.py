"""Compares runs: the seeds of one setting form a group, and groups measured alike are held against each other.

A comparison draws rewards against one diversity. If the runs recorded a limit, these are the reward that was trained
on and the reward and diversity of the limit; otherwise the reward that was trained on, the first judge and the first
diversity that was measured.
"""

import json
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from rdt.pareto import bootstrap_mean, front, hypervolume, hypervolume_under, largest_gap, paired_difference
from rdt.report.hacking import GAP
from rdt.report.read import Run
from rdt.result import Point, Score
from rdt.text import printable

# Settings in which two runs may differ and still be seeds of the same setting.
INCIDENTAL = {"seed", "output_dir", "resume", "tags", "dry_run", "micro_batch_size", "devices", "num_nodes",
              "precision", "method", "reward", "model", "overrides", "cache", "method.samples"}  # fmt: skip
INCIDENTAL_SECTIONS = {"hydra", "logger", "trainer"}
CHOSEN = "trainer.ema."  # it changes what is evaluated
UNMEASURED = "diversity/none measured"  # the diversity of runs that measured none


@dataclass(frozen=True)
class Group:
    """Holds the points that one method reached under one setting, one point per seed."""

    method: str
    name: str  # its name in legends: the method and the setting
    setting: str  # how it differs from the other groups of its method; empty if it is the only one
    runs: tuple[Run, ...]
    points: tuple[Point, ...]  # one per run
    scores: dict[str, Score]  # over seeds and prompts

    @property
    def hacked(self) -> bool:
        """Return whether the trained reward rose while a judge fell, both by more than their intervals."""
        return self.runs[0].hacked(self.scores)


@dataclass(frozen=True)
class Repeat:
    """Names a run whose seed another run of the same setting has; points that both have count once."""

    run: Run
    first: Run

    @property
    def line(self) -> str:
        """Return a line that names both."""
        what = "is a copy of" if self.run.result == self.first.result else "has the setting and the seed of"
        return f"{printable(self.run.path)} {what} {printable(self.first.path)}: it counts once"


@dataclass(frozen=True)
class Curve:
    """A limit in one plane: rewards (M,) against diversity, exact and as a finite number of images would measure it."""

    reward: np.ndarray
    exact: np.ndarray
    sampled: np.ndarray


@dataclass(frozen=True)
class LimitShare:
    """States how close the front of a method comes to the limit of a reward."""

    method: str
    reward: str
    share: float  # of the limit's hypervolume above (base reward, no diversity)
    gap: float  # the largest loss of diversity at equal reward; nan if the front is outside the limit's range


@dataclass(frozen=True, eq=False)  # compared and hashed by identity, so that results about it can be cached
class Comparison:
    """Holds groups that were measured on the same model, prompts and number of images."""

    model: str
    n_prompts: int
    n_per_prompt: int
    diversity: str  # the score on the x axis
    rewards: tuple[str, ...]  # the scores on the y axes, the reward that was trained on first
    base: dict[str, Score]
    groups: tuple[Group, ...]
    limit: dict[str, Any] | None
    repeats: tuple[Repeat, ...] = ()

    @property
    def methods(self) -> tuple[str, ...]:
        """Return the methods of the groups, each once."""
        return tuple(dict.fromkeys(group.method for group in self.groups))

    @property
    def runs(self) -> tuple[Run, ...]:
        """Return the runs of the groups, each once."""
        return tuple({run.path: run for group in self.groups for run in group.runs}.values())

    @property
    def seeds(self) -> int:
        """The least number of seeds that a group has."""
        return min(len(group.runs) for group in self.groups)

    @property
    def score_names(self) -> list[str]:
        """The names of all scores; those that the figure draws come first."""
        names = dict.fromkeys(n for scores in (self.base, *(g.scores for g in self.groups)) for n in scores)
        drawn = [name for name in (*self.rewards, self.diversity, GAP) if name in names]
        return drawn + [name for name in names if name not in drawn]

    def plane(self, scores: Iterable[dict[str, Score]], reward: str) -> np.ndarray:
        """Return reward and diversity, (N, 2), of those that have both."""
        both = [s for s in scores if {reward, self.diversity} <= set(s)]
        return np.array([(s[reward].value.mean, s[self.diversity].value.mean) for s in both]).reshape(-1, 2)

    def on_front(self, method: str, reward: str) -> tuple[list[Group], np.ndarray]:
        """Return the groups of a method that have both scores, and the mask of those that no other one dominates."""
        groups = [g for g in self.groups if g.method == method and {reward, self.diversity} <= set(g.scores)]
        return groups, front(self.plane([g.scores for g in groups], reward))

    def curve(self, reward: str, kind: str = "frontier") -> Curve | None:
        """Return the limit of a reward, None if it is unknown; kind "kl_frontier" is what a KL penalty can reach."""
        limit, u, d = self.limit or {}, reward.partition("/")[2], self.diversity.partition("/")[2]
        rows = limit.get(kind if u == limit.get("reward") else f"proxy_{kind}") or []
        rows = sorted((row for row in rows if u in row and d in row), key=lambda row: row[u])
        if d != limit.get("diversity") or len(rows) < 2:
            return None
        values = [[row[u], row[d], row.get(f"{d}_sampled", row[d])] for row in rows]
        return Curve(*np.array(values, dtype=float).T)

    def limit_shares(self) -> list[LimitShare]:
        """Return how close each method comes to the limit of each reward that has one."""
        pairs = ((method, reward) for method in self.methods for reward in self.rewards)
        return [found for pair in pairs if (found := self._limit_share(*pair)) is not None]

    def limit_hypervolume(self, reward: str) -> float:
        """Return the limit's hypervolume above (base reward, no diversity): 1 without a limit, nan if it is empty."""
        curve = self.curve(reward)
        if curve is None:
            return 1.0
        limit, start = np.stack([curve.reward, curve.sampled], axis=1), self.base[reward].value.mean
        return hypervolume_under(_above(limit, start), (start, 0.0)) or float("nan")

    def _limit_share(self, method: str, reward: str) -> LimitShare | None:
        curve, (groups, mask) = self.curve(reward), self.on_front(method, reward)
        if curve is None or not groups or reward not in self.base:
            return None
        plane = self.plane([g.scores for g in groups], reward)[mask]
        limit, start = np.stack([curve.reward, curve.sampled], axis=1), self.base[reward].value.mean
        flat = np.maximum(plane, [limit[0, 0], -np.inf])  # at rewards below its first, the limit keeps that diversity
        share = hypervolume(plane, (start, 0.0)) / self.limit_hypervolume(reward)
        return LimitShare(method, reward, share, largest_gap(flat, limit))


def _above(limit: np.ndarray, reward: float) -> np.ndarray:
    """Return the limit (M, 2) from a reward on; to the left of its first point it is flat."""
    at = np.interp(reward, limit[:, 0], limit[:, 1])
    return np.concatenate([[[reward, at]], limit[limit[:, 0] > reward]])


def compare(runs: Iterable[Run]) -> list[Comparison]:
    """Return one comparison per model, set of prompts and number of images per prompt."""
    alike: dict[tuple, list[Run]] = defaultdict(list)
    for run in runs:
        base = run.result.base
        alike[run.result.model, base.prompts or base.n_prompts, base.n_per_prompt].append(run)
    return [_comparison(members) for members in alike.values()]


def _comparison(members: list[Run]) -> Comparison:
    groups, repeats = _groups(members)
    repeated = {id(one.run) for one in repeats}
    runs = [run for run in members if id(run) not in repeated]
    results = [run.result for run in runs]
    base = results[0].base
    return Comparison(
        model=results[0].model,
        n_prompts=base.n_prompts,
        n_per_prompt=base.n_per_prompt,
        diversity=_diversity(runs),
        rewards=tuple(dict.fromkeys(name for run in runs for name in _rewards(run))),
        base=_over_seeds([result.base for result in results]),
        groups=groups,
        limit=next((result.limit for result in results if result.limit), None),
        repeats=repeats,
    )


def _diversity(runs: list[Run]) -> str:
    """Return the diversity of the limit if it was measured, else the first that was."""
    measured = [name for run in runs for name in run.result.base.scores if name.startswith("diversity/")]
    preferred = [f"diversity/{run.result.limit['diversity']}" for run in runs if run.result.limit]
    return next((name for name in (*preferred, *measured) if name in measured), UNMEASURED)


def _rewards(run: Run) -> list[str]:
    """Return the reward that was trained on and the limit's reward or else the first judge, so far as measured."""
    measured = [name for name in run.result.base.scores if name.startswith("reward/")]
    unseen = [run.result.limit["reward"]] if run.result.limit else run.judges[:1]
    wanted = [name for name in (f"reward/{name}" for name in (run.result.reward, *unseen)) if name in measured]
    return wanted or measured[:1]


def _groups(runs: list[Run]) -> tuple[tuple[Group, ...], tuple[Repeat, ...]]:
    """Return the groups of the runs' points, in which every seed counts once, and the runs that repeat a seed."""
    members: dict[tuple, dict[int, tuple[Run, Point]]] = defaultdict(dict)
    repeats: dict[int, Repeat] = {}
    for run in runs:
        for point in run.result.points:
            settings = json.dumps(_settings(run, point), sort_keys=True, default=str)
            first, _ = members[run.result.method, settings].setdefault(run.result.seed, (run, point))
            if first is not run:
                repeats.setdefault(id(run), Repeat(run, first))
    varying = _varying([(method, json.loads(text)) for method, text in members])
    groups = tuple(
        _group(method, _description(json.loads(text), varying[method]), list(by_seed.values()))
        for (method, text), by_seed in sorted(members.items(), key=lambda item: item[0])
    )
    return groups, tuple(repeats.values())


def _group(method: str, setting: str, pairs: list[tuple[Run, Point]]) -> Group:
    runs, points = zip(*sorted(pairs, key=lambda pair: pair[0].result.seed), strict=True)
    scores = _over_seeds(points, [run.result.base for run in runs])
    return Group(method, f"{method} {setting}".strip(), setting, runs, points, scores)


def _settings(run: Run, point: Point) -> dict[str, Any]:
    """Return all that tells the point of a run from that of another, but for the seed."""
    settings = _choices(run) | {"reward": run.result.reward, "label": point.label}
    if not run.setting("max_passes"):  # under a limit on passes, the number of iterations may differ between seeds
        settings["iterations"] = run.result.iterations
    return settings | {f"guidance.{key}": value for key, value in point.guidance.items()}


def _choices(run: Run) -> dict[str, Any]:
    """Return what the user chose: the recorded overrides or else the whole config, without incidental keys."""
    typed = run.overrides
    chosen = _flat(run.config) if typed is None else dict(item.lstrip("+~").partition("=")[::2] for item in typed)
    return {
        key: value
        for key, value in chosen.items()
        if key.startswith(CHOSEN) or (key not in INCIDENTAL and key.partition(".")[0] not in INCIDENTAL_SECTIONS)
    }


def _flat(config: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return the leaves of a nested config by dotted key."""
    leaves: dict[str, Any] = {}
    for key, value in config.items():
        leaves |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return leaves


def _varying(groups: list[tuple[str, dict[str, Any]]]) -> dict[str, list[str]]:
    """Return, by method, the keys in which its groups differ; a label that differs stands for all of its guidance."""
    varying = {}
    for method in {name for name, _ in groups}:
        own = [settings for name, settings in groups if name == method]
        keys = sorted({key for settings in own for key in settings})
        differ = [key for key in keys if len({json.dumps(settings.get(key), default=str) for settings in own}) > 1]
        varying[method] = [key for key in differ if not (key.startswith("guidance.") and "label" in differ)]
    return varying


def _description(settings: dict[str, Any], varying: list[str], most: int = 2) -> str:
    """Return the first few of the varying settings that a group chose; those left at their default are not named."""
    chosen = [(key, settings[key]) for key in varying if key in settings]
    words = [str(value) if key == "label" else f"{key.rpartition('.')[2]} {value}" for key, value in chosen]
    more = f"  and {len(words) - most} more" if len(words) > most else ""
    return "  ".join(words[:most]) + more


def _over_seeds(points: Sequence[Point], bases: Sequence[Point] = ()) -> dict[str, Score]:
    """Return the scores over several seeds, bootstrapped over seeds and prompts; a single point keeps its own."""
    if len(points) == 1:
        return dict(points[0].scores)
    shared = [name for name in points[0].scores if all(name in point.scores for point in (*points, *bases))]
    return {name: _over_points(points, bases, name) for name in shared}


def _over_points(points: Sequence[Point], bases: Sequence[Point], name: str) -> Score:
    """Return one score over several points; a value without rows by prompt that all share is one measurement."""
    rows, (first, *others) = _rows(points, name), (point.scores[name] for point in points)
    if len(rows[0]) == 1 and all(score == first for score in others):
        return first
    return _over_runs(rows, _rows(bases, name) if bases else None)


def _over_runs(rows: list[list[float]], base: list[list[float]] | None) -> Score:
    paired = base is not None and [len(row) for row in base] == [len(row) for row in rows]
    return Score(bootstrap_mean(rows, seed=0), paired_difference(rows, base, seed=0) if paired else None)


def _rows(points: Sequence[Point], name: str) -> list[list[float]]:
    """Return one score by run and prompt, (S, P), or its means (S, 1) if the runs do not have the same prompts."""
    rows = [point.per_prompt.get(name) or [] for point in points]
    ragged = not rows[0] or len({len(row) for row in rows}) > 1
    if ragged or not np.isfinite(np.array(rows, dtype=float)).all():
        return [[point.scores[name].value.mean] for point in points]
    return rows
