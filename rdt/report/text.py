"""Numbers as people read them."""

from rdt.pareto import Interval
from rdt.result import Score


def number(value: float) -> str:
    """Three significant digits."""
    return "0" if value == 0 else f"{value:#.3g}".rstrip(".")


def interval(value: Interval) -> str:
    """Mean with its 95 % interval; the mean alone where that has no width."""
    if value.lo == value.hi:
        return number(value.mean)
    return f"{number(value.mean)} [{number(value.lo)}, {number(value.hi)}]"


def difference(value: Interval) -> str:
    """Signed mean with its 95 % interval."""
    return f"{value.mean:+.2g} [{value.lo:+.2g}, {value.hi:+.2g}]"


def short(name: str) -> str:
    """A score without its section: "reward/hps" is hps."""
    return name.rpartition("/")[2].removesuffix("_nats")


def verdict(score: Score, name: str) -> str:
    """ "up", "down", or "even" where the paired interval holds 0; "cost" for what has no better side."""
    if score.diff is None or score.diff.lo <= 0 <= score.diff.hi:
        return "even"
    if not name.startswith(("reward/", "diversity/")):
        return "cost"
    return "up" if score.diff.mean > 0 else "down"
