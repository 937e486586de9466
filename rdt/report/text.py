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
    form = f"+{interval_form(value)}"
    return f"{value.mean:{form}} [{value.lo:{form}}, {value.hi:{form}}]"


def measured_text(value: Interval) -> str:
    """Return a mean with its 95 % interval; the mean alone if that has no width."""
    if value.lo == value.hi:
        return number(value.mean)
    form = interval_form(value)
    return f"{value.mean:{form}} [{value.lo:{form}}, {value.hi:{form}}]"


def half(value: Interval, sign: str = "") -> str:
    """Return a mean with half its 95 % interval; empty if that has no width."""
    form = interval_form(value)
    return f"{value.mean:{sign}{form}} ±{(value.hi - value.lo) / 2:{form}}" if value.hi > value.lo else ""


def interval_form(value: Interval) -> str:
    """Return the format of a mean and its bounds: as many decimals as give half the interval two digits."""
    width = (value.hi - value.lo) / 2
    if not 1e-6 < width < 1e6:
        return ".2g"
    return f".{max(0, 1 - math.floor(math.log10(width)))}f"


def short(name: str) -> str:
    """Return a quantity's name without its section and its unit: "hps" of "reward/hps", "kl" of "kl_nats"."""
    return name.rpartition("/")[2].removesuffix("_nats").replace("hacking_gap", "hacking gap")


def unit(name: str) -> str:
    """Return the unit of a quantity after a space: " nats" of "kl_nats"; empty if it has none."""
    return " nats" if name.endswith("_nats") else " SD" if name == "hacking_gap" else ""
