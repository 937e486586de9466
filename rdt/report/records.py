"""What a run recorded, as frozen records."""

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rdt.pareto import Interval

GROUPS = ("reward", "diversity", "fidelity")  # sections of a point, in the order in which they are shown


@dataclass(frozen=True)
class Score:
    """One measured quantity, and its paired difference to the base model where there is one."""

    value: Interval
    diff: Interval | None = None


@dataclass(frozen=True)
class Point:
    """A model under one guidance; scores and per_prompt are named "reward/hps", "diversity/entropy", "kl_nats"."""

    label: str
    guidance: dict[str, Any]
    scores: dict[str, Score]
    per_prompt: dict[str, list[float]]
    prompts: tuple[str, ...]
    n_prompts: int
    n_per_prompt: int


@dataclass(frozen=True)
class Run:
    """One readable run folder."""

    path: Path
    method: str
    reward: str
    model: str
    seed: int
    iterations: int
    base: Point
    points: tuple[Point, ...]
    limit: dict[str, Any] | None
    compute: dict[str, Any]
    versions: dict[str, Any]
    config_text: str = ""
    config: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Failure:
    """A run folder without a usable result, and the reason in one line."""

    path: Path
    reason: str


def read_point(entry: dict[str, Any], where: str) -> Point:
    """The record of one point of result.json; ValueError where a number is not finite."""
    scores = {f"{group}/{name}": value for group in GROUPS for name, value in (entry.get(group) or {}).items()}
    scores |= {"kl_nats": entry.get("kl_nats")}
    prompts = tuple(entry.get("prompts") or ())
    return Point(
        entry.get("label") or "", entry.get("guidance") or {},
        {name: _score(value, f"{where} {name}") for name, value in scores.items() if value is not None},
        entry.get("per_prompt") or {}, prompts, int(entry.get("n_prompts") or len(prompts)),
        int(entry.get("n_per_prompt") or 0),
    )  # fmt: skip


def _score(entry: dict[str, Any] | float, where: str) -> Score:
    if not isinstance(entry, dict):
        entry = {"mean": entry}
    return Score(_interval(entry, where), _interval(entry["diff"], where) if entry.get("diff") else None)


def _interval(entry: dict[str, Any], where: str) -> Interval:
    mean = float(entry["mean"])
    lo, hi = (float(bound) for bound in entry.get("ci95") or (mean, mean))
    if not all(map(math.isfinite, (mean, lo, hi))):
        raise ValueError(f"{where} is {mean:g} [{lo:g}, {hi:g}]; want finite numbers")
    return Interval(mean, lo, hi)
