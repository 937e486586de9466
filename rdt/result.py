"""`result.json` holds what a run measured. Its schema is defined, written and read here alone.

A point is a model under one guidance, evaluated on held-out prompts. Its scores are named "<kind>/<name>", such as
"reward/hps", "diversity/entropy" or "fidelity/residual", and "kl_nats", "latent_rms", "dark" without a kind. The
file holds the scores of a kind in a section of that name, each with its mean, its 95 % interval over prompts and, for
all points but the base, its paired difference to the base.
"""

import hashlib
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from rdt import files
from rdt.pareto import Interval, bootstrap_mean, paired_difference
from rdt.text import read_json

FILE = "result.json"
SCHEMA = 2
KINDS = ("reward", "diversity", "fidelity")  # sections of a point, in the order in which they are shown
FIELDS: dict[str, tuple[type, ...]] = {  # JSON types of the top-level entries
    "method": (str,), "reward": (str,), "model": (str,), "seed": (int,), "iterations": (int,), "base": (dict,),
    "points": (list,), "limit": (dict, type(None)), "weights": (str, type(None)), "prompts": (dict,),
    "compute": (dict,), "versions": (dict,), "trained_on": (list, type(None)),
}  # fmt: skip
REQUIRED = ("method", "reward", "model", "seed", "iterations", "base", "points")
BASE = {"name": "base"}  # the guidance that result.json gives for the base


@dataclass(frozen=True)
class Score:
    """Holds a measured quantity and its paired difference to the base model, if it has one."""

    value: Interval
    diff: Interval | None = None


@dataclass(frozen=True)
class Point:
    """Holds the scores of one model under one guidance."""

    guidance: dict[str, Any]
    scores: dict[str, Score]  # by kind in the order of KINDS, then "kl_nats"
    levels: dict[str, Score]  # "latent_rms" and the sentinels, which reveal drift and are in no table
    per_prompt: dict[str, list[float]]  # (P,) each
    prompts: tuple[str, ...]  # (P,)
    n_per_prompt: int  # images of each prompt

    @property
    def n_prompts(self) -> int:
        """Return the number of prompts, P."""
        return len(self.prompts)

    @property
    def label(self) -> str:
        """Return the name of the point in legends."""
        return label(self.guidance)

    def means(self) -> dict[str, float]:
        """Return the mean of every score, by name."""
        return {name: score.value.mean for name, score in self.scores.items()}


@dataclass(frozen=True)
class Result:
    """Holds everything that result.json records of a run."""

    method: str
    reward: str
    model: str
    seed: int
    iterations: int
    base: Point
    points: tuple[Point, ...]  # at least one; the first is the run under its own guidance
    limit: dict[str, Any] | None = None  # the best that any method could reach, if the world knows it
    weights: str | None = None  # the fingerprint of the frozen weights that were evaluated
    trained_on: tuple[str, ...] | None = None  # names of rewards; the other ones are unseen judges; None: not known
    prompts: dict[str, Any] = field(default_factory=dict)  # counts of prompts by split
    compute: dict[str, Any] = field(default_factory=dict)
    versions: dict[str, Any] = field(default_factory=dict)

    @property
    def tuned(self) -> Point:
        """Return the point of the run under its own guidance, whose pictures are named "tuned" too."""
        return self.points[0]

    def role(self, reward: str) -> str | None:
        """Return whether a reported reward was "trained on" or is an "unseen" judge; None if that is not known."""
        if self.trained_on is None:
            return None
        return "trained on" if reward in self.trained_on else "unseen"

    def roles(self) -> dict[str, str]:
        """Return the role of every reported reward, by name; empty if it is not known."""
        names = [name.removeprefix("reward/") for name in self.tuned.scores if name.startswith("reward/")]
        return {name: role for name in names if (role := self.role(name))}

    def with_point(self, new: Point) -> "Result":
        """Return the result with one more point; it replaces a point of the same guidance."""
        guidances = [point.guidance for point in self.points]
        k = guidances.index(new.guidance) if new.guidance in guidances else len(guidances)
        return replace(self, points=(*self.points[:k], new, *self.points[k + 1 :]))


def measured(
    scores: Mapping[str, np.ndarray], totals: Mapping[str, float], guidance: Mapping[str, Any],
    prompts: Sequence[str], n_per_prompt: int, base: Mapping[str, Sequence[float]] | None = None,
) -> Point:  # fmt: skip
    """Return the point of per-prompt scores (P,) and of totals over all images, paired with the base's if given."""
    made = {name: _over_prompts(values, base[name] if base else None) for name, values in scores.items()}
    made |= {name: Score(Interval(value, value, value)) for name, value in totals.items()}
    per_prompt = {name: values.tolist() for name, values in scores.items()}
    return Point(dict(guidance), *_split(made), per_prompt, tuple(prompts), n_per_prompt)


def label(guidance: Mapping[str, Any]) -> str:
    """Return the name of a guidance in legends, such as "aig power exponent=2"."""
    words = ((k, _shortest(v) if isinstance(v, float) else str(v)) for k, v in guidance.items())
    return " ".join(word if isinstance(guidance[key], str) else f"{key}={word}" for key, word in words)


def _shortest(number: float) -> str:
    """Return a number in six digits, or in all that tell it from every other number."""
    return f"{number:g}" if float(f"{number:g}") == number else repr(number)


def sample_names(points: Sequence[Point]) -> list[str]:
    """Return the file names, without ending, of the points' pictures in `samples/`; the base's is "base".

    A name that a picture before it has gets a digest of the guidance; points are only added at the end.
    """
    names = ["tuned"]
    for point in points[1:]:
        name = slug(point.label)
        names.append(f"{name[:71]}-{digest(point.guidance)}" if name in (*names, "base", "samples") else name)
    return names


def slug(words: str) -> str:
    """Return words as a file name; a number keeps its sign."""
    signed = re.sub(r"(?<![a-z0-9])-(?=\d)", "minus", words.lower())
    return re.sub(r"[^a-z0-9.]+", "-", signed).strip("-.")[:80] or "samples"


def digest(value: Any) -> str:
    """Return 8 hexadecimal characters that tell a JSON value from others."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:8]


def write(result: Result, folder: Path) -> None:
    """Write result.json into a folder; ValueError if a number is not finite."""
    whole = {"schema": SCHEMA} | {name: value for name, value in vars(result).items() if name not in ("base", "points")}
    roles = result.roles()
    points = {"points": [_point_json(one, roles) for one in result.points], "base": _point_json(result.base, roles)}
    files.write_json(folder / FILE, whole | points)


def read(folder: Path) -> Result:
    """Return the result of a run folder; ValueError, in one line, if there is none, or it is corrupt or incomplete."""
    found = _parsed(folder / FILE)
    missing = [key for key in REQUIRED if key not in found]
    if missing:
        raise ValueError(f"{FILE} lacks {', '.join(missing)}")
    _check_fields(found)
    if not found["points"]:
        raise ValueError(f"{FILE} has no points: nothing was evaluated")
    known = {name: found[name] for name in Result.__dataclass_fields__ if name in found}
    known |= {"trained_on": tuple(map(str, names))} if (names := found.get("trained_on")) is not None else {}
    try:
        base = _point(found["base"], "base")
        points = tuple(_point(one, f"points[{k}]") for k, one in enumerate(found["points"]))
        return Result(**known | {"base": base, "points": points})
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError) as error:
        raise ValueError(f"{FILE} does not follow schema {SCHEMA}: {type(error).__name__} {error}") from error


def _over_prompts(values: np.ndarray, base: Sequence[float] | None) -> Score:
    """Return the mean with its bootstrap interval over prompts, and the same of the paired difference."""
    mean = bootstrap_mean(values, seed=0)
    return Score(mean, None if base is None else paired_difference(values, np.asarray(base, float), seed=0))


def _parsed(file: Path) -> dict[str, Any]:
    """Return the content of a result.json of this schema; ValueError otherwise."""
    if not file.is_file():
        raise ValueError(f"no {file.name}: the run is unfinished or broke off")
    try:
        found = read_json(file)
    except ValueError as error:
        raise ValueError(f"{file.name} is corrupt: {str(error).removeprefix(f'{file} ')}") from error
    schema = found.get("schema") if isinstance(found, dict) else None
    if schema != SCHEMA:
        raise ValueError(f"{file.name} has schema {schema!r}; this version of rdt reads {SCHEMA}")
    return found


def _split(named: dict[str, Score]) -> tuple[dict[str, Score], dict[str, Score]]:
    """Return the scores in the order of KINDS, "kl_nats" last, and the levels."""
    kinds = {name: one for kind in KINDS for name, one in named.items() if name.startswith(f"{kind}/")}
    scores = kinds | {name: one for name, one in named.items() if name == "kl_nats"}
    return scores, {name: one for name, one in named.items() if name not in scores}


def _point_json(point: Point, roles: Mapping[str, str]) -> dict[str, Any]:
    sections: dict[str, Any] = {kind: {} for kind in KINDS}
    for name, score in (point.scores | point.levels).items():
        kind, _, short = name.rpartition("/")
        (sections[kind] if kind else sections)[short] = _score_json(score, total=name not in point.per_prompt)
    for name, role in roles.items():
        sections["reward"].get(name, {})["role"] = role
    return {"label": point.label, "guidance": point.guidance} | sections | {
        "n_prompts": point.n_prompts, "n_per_prompt": point.n_per_prompt,
        "per_prompt": point.per_prompt, "prompts": list(point.prompts),
    }  # fmt: skip


def _score_json(score: Score, total: bool) -> dict[str, Any]:
    """Return the JSON of a score; a total over all images has no interval over prompts."""
    if total:
        return {"mean": score.value.mean}
    value = _interval_json(score.value)
    return value if score.diff is None else value | {"diff": _interval_json(score.diff)}


def _interval_json(interval: Interval) -> dict[str, Any]:
    return {"mean": interval.mean, "ci95": [interval.lo, interval.hi]}


def _check_fields(found: dict[str, Any]) -> None:
    """Raise ValueError if a top-level entry has another JSON type, or a cost is no finite number."""
    for name, kinds in FIELDS.items():
        if name in found and (isinstance(found[name], bool) or not isinstance(found[name], kinds)):
            expected = " or ".join("null" if kind is type(None) else kind.__name__ for kind in kinds)
            raise ValueError(f"{FILE} has {name} of type {type(found[name]).__name__}, expected {expected}")
    for name, cost in found.get("compute", {}).items():
        if name != "device" and cost is not None and not _is_number(cost):
            raise ValueError(f"{FILE} has compute.{name}={str(cost)[:40]!r}, expected a finite number")
    for name, rows in (found.get("limit") or {}).items():
        if name.endswith("frontier") and not (isinstance(rows, list) and all(map(_is_row, rows))):
            raise ValueError(f"{FILE} has limit.{name}, which is not a list of rows of finite numbers")


def _is_row(value: Any) -> bool:
    return isinstance(value, dict) and all(map(_is_number, value.values()))


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and abs(value) < 1e300  # also False for NaN


def _check_point(entry: dict[str, Any], where: str) -> None:
    """Raise ValueError unless a point has a guidance, prompts, and a finite number for each prompt of each score."""
    prompts, rows = entry["prompts"], entry["per_prompt"]
    if not isinstance(entry["guidance"], dict) or not isinstance(entry["n_per_prompt"], int):
        raise ValueError(f"{where} has no guidance with names or no whole n_per_prompt")
    if not isinstance(prompts, list) or not all(isinstance(prompt, str) for prompt in prompts):
        raise ValueError(f"{where} has prompts that are not a list of texts")
    for name, values in rows.items():
        if not isinstance(values, list) or len(values) != len(prompts) or not all(map(_is_number, values)):
            raise ValueError(f"{where} per_prompt {name}: want a finite number for each of {len(prompts)} prompts")


def _point(entry: dict[str, Any], where: str) -> Point:
    _check_point(entry, where)
    named = {f"{kind}/{name}": value for kind in KINDS for name, value in entry[kind].items()}
    named |= {name: value for name, value in entry.items() if isinstance(value, dict) and "mean" in value}
    scores, levels = _split({name: _score(value, f"{where} {name}") for name, value in named.items()})
    guidance, prompts, count = entry["guidance"], tuple(entry["prompts"]), entry["n_per_prompt"]
    if not isinstance(guidance, dict) or not isinstance(count, int) or not all(isinstance(p, str) for p in prompts):
        raise TypeError(f"in guidance, prompts or n_per_prompt of {where}")
    per_prompt = {name: [float(value) for value in values] for name, values in entry["per_prompt"].items()}
    return Point(guidance, scores, levels, per_prompt, prompts, count)


def _score(entry: dict[str, Any], where: str) -> Score:
    return Score(_interval(entry, where), _interval(entry["diff"], where) if "diff" in entry else None)


def _interval(entry: dict[str, Any], where: str) -> Interval:
    mean = float(entry["mean"])
    lo, hi = (float(bound) for bound in entry.get("ci95", (mean, mean)))
    if not all(map(math.isfinite, (mean, lo, hi))):
        raise ValueError(f"{where} is {mean:g} [{lo:g}, {hi:g}]; want finite numbers")
    return Interval(mean, lo, hi)
