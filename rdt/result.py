"""Points of a front as result.json holds them: an evaluation under one guidance, with intervals over prompts."""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from rdt.evaluation import Evaluation, Protocol
from rdt.pareto import bootstrap_mean, paired_difference

Point = dict[str, Any]  # as in result.json
BASE = {"name": "base"}


def point(
    done: Evaluation, base: Mapping[str, Tensor] | None, protocol: Protocol, guidance: Mapping[str, Any]
) -> Point:
    """Means and paired differences to the base's per-prompt scores, (P,) each, the values themselves, and totals."""
    made: Point = {"label": label(guidance), "guidance": dict(guidance), "reward": {}, "diversity": {}, "fidelity": {}}
    for name, values in done.scores.items():
        kind, _, short = name.rpartition("/")
        (made[kind] if kind else made)[short] = interval(values, base[name] if base else None)
    for name, value in done.totals.items():
        kind, _, short = name.rpartition("/")
        made[kind][short] = {"mean": value}  # of all images at once: no interval over prompts
    return made | {
        "n_prompts": len(protocol.prompts),
        "n_per_prompt": protocol.images_per_prompt,
        "per_prompt": {name: values.tolist() for name, values in done.scores.items()},
        "prompts": list(protocol.prompts),
    }


def interval(values: Tensor, base: Tensor | None) -> dict[str, Any]:
    """Mean and bootstrap interval over prompts; beside a base, of the paired difference too."""
    mean = bootstrap_mean(values.numpy(), seed=0)
    made: dict[str, Any] = {"mean": mean.mean, "ci95": [mean.lo, mean.hi]}
    if base is not None:
        diff = paired_difference(values.numpy(), base.numpy(), seed=0)
        made["diff"] = {"mean": diff.mean, "ci95": [diff.lo, diff.hi]}
    return made


def label(guidance: Mapping[str, Any]) -> str:
    """What a legend calls a described guidance: "aig power exponent=2"."""
    words = ((k, f"{v:g}" if isinstance(v, float) else str(v)) for k, v in guidance.items())
    return " ".join(word if isinstance(guidance[key], str) else f"{key}={word}" for key, word in words)


def means(one: Point) -> dict[str, float]:
    """{"reward/hps": mean, ..., "kl_nats": mean} of a point."""
    kinds = {f"{kind}/{name}": v for kind in ("reward", "diversity", "fidelity") for name, v in one[kind].items()}
    return {name: value["mean"] for name, value in (kinds | {"kl_nats": one.get("kl_nats")}).items() if value}


def own(points: Sequence[Point]) -> Point:
    """The point that stands for a run: under its own guidance; of a curve the first, whose pictures are "tuned"."""
    return points[0]


def joined(points: list[Point], new: Point) -> list[Point]:
    """The points with the new one, in the place of the one of the same guidance where there is one."""
    places = [i for i, old in enumerate(points) if old["guidance"] == new["guidance"]] or [len(points)]
    return [*points[: places[0]], new, *points[places[0] + 1 :]]
