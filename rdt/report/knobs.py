"""The knobs of a comparison: settings of one method that differ in one number alone, such as the power of AIG.

The page has a slider for each, which pins the points of the knob one after the other.
"""

import json
import math
from collections import defaultdict
from dataclasses import dataclass
from typing import Any

from rdt.report.compare import Comparison, point_settings


@dataclass(frozen=True)
class Knob:
    """Holds the values of one key, in order, and the groups that have them."""

    title: str  # its method, its guidance if it belongs to one, and the last word of its key
    values: tuple[float, ...]
    groups: tuple[str, ...]  # their names


def knobs_of(comparison: Comparison) -> list[Knob]:
    """Return every knob with at least two values, each value at one group."""
    families: dict[tuple[str, str, str], dict[float, list[str]]] = defaultdict(lambda: defaultdict(list))
    for group in comparison.groups:
        settings = point_settings(group.runs[0], group.points[0])
        for key, value in settings.items():
            number = _number(value)
            if number is not None:
                families[_title(group.method, settings, key), key, _others(settings, key)][number].append(group.name)
    return [_knob(title, found) for (title, _, _), found in sorted(families.items()) if _turns(found)]


def _title(method: str, settings: dict[str, Any], key: str) -> str:
    guidance = f"{settings.get('guidance.name')} " if key.startswith("guidance.") else ""
    return f"{method} {guidance}{key.rpartition('.')[2]}"


def _knob(title: str, found: dict[float, list[str]]) -> Knob:
    values = sorted(found)
    return Knob(title, tuple(values), tuple(found[value][0] for value in values))


def _turns(found: dict[float, list[str]]) -> bool:
    return len(found) > 1 and all(len(names) == 1 for names in found.values())


def _others(settings: dict[str, Any], key: str) -> str:
    """Return what must be equal along the knob: all other settings; of a guidance, those that are no numbers."""
    guided = key.startswith("guidance.")

    def counts(name: str) -> bool:
        own = name == "label" or (name.startswith("guidance.") and _number(settings[name]) is not None)
        return name != key and not (guided and own)

    return json.dumps({name: value for name, value in settings.items() if counts(name)}, sort_keys=True, default=str)


def _number(value: Any) -> float | None:
    """Return a setting as a finite number, None if it is none."""
    try:
        number = float(value) if isinstance(value, int | float | str) and not isinstance(value, bool) else math.nan
    except ValueError:
        return None
    return number if math.isfinite(number) else None
