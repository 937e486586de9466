"""The planes that the first figure draws: which score against which, and what their four quadrants mean.

Points lie at their paired difference to the base, which is the origin; with `absolute` at the scores themselves.
"""

from dataclasses import dataclass

from rdt.pareto import Interval
from rdt.report.compare import Comparison
from rdt.report.text import short
from rdt.result import Score


@dataclass(frozen=True)
class Plane:
    """Names the scores across and up, and the quadrants around the base: up right, up left, down right, down left."""

    across: str
    up: str
    quadrants: tuple[str, str, str, str]

    def title(self, absolute: bool = False) -> str:
        """Return the heading of the plane."""
        sign = "" if absolute else "Δ "
        return f"{sign}{short(self.up)} against {sign}{short(self.across)}"


def planes_of(comparison: Comparison) -> list[Plane]:
    """Return a plane per reward over the diversity and, of two rewards, that of the second over the first."""
    found = [Plane(comparison.diversity, reward, _bought(reward)) for reward in comparison.rewards]
    if len(comparison.rewards) == 2:
        trained, judge = (short(name) for name in comparison.rewards)
        hacked = f"hacked: {trained} up, {judge} down"
        names = ("better in both", f"{judge} up, {trained} down", hacked, "worse in both")
        found.append(Plane(comparison.rewards[0], comparison.rewards[1], names))
    return found


def spot(comparison: Comparison, scores: dict[str, Score], name: str, absolute: bool) -> Interval | None:
    """Return where a score lies on its axis; None if it was not measured, or its base was not."""
    score, base = scores.get(name), comparison.base.get(name)
    if score is None or absolute:
        return None if score is None else score.value
    if scores is comparison.base:
        return Interval(0.0, 0.0, 0.0)
    if score.diff is not None or base is None:
        return score.diff
    gain = score.value.mean - base.value.mean  # a value over all images together has no interval
    return Interval(gain, gain, gain)


def _bought(reward: str) -> tuple[str, str, str, str]:
    name = short(reward)
    return "better in both", f"{name} bought with diversity", f"diversity bought with {name}", "worse in both"
