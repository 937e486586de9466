"""Writes numbers and the names of quantities as the report shows them."""

import math

from rdt.pareto import Interval

NONE = "–"  # stands in a table for a value that does not exist


def number(value: float) -> str:
    """Return a number with three significant digits."""
    return "0" if value == 0 else f"{value:#.3g}".rstrip(".")


def difference(value: Interval) -> str:
    """Return a signed mean with its 95 % interval, or a dash if one of them is not finite."""
    if not all(map(math.isfinite, (value.mean, value.lo, value.hi))):
        return NONE
    return f"{value.mean:+.2g} [{value.lo:+.2g}, {value.hi:+.2g}]"


def short(name: str) -> str:
    """Return a quantity's name without its section and its unit: "hps" of "reward/hps", "kl" of "kl_nats"."""
    return name.rpartition("/")[2].removesuffix("_nats")


def unit(name: str) -> str:
    """Return the unit that a quantity's name ends with, after a space: " nats" of "kl_nats"; empty if none."""
    return " nats" if name.endswith("_nats") else ""
