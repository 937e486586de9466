"""The points of a guidance: one, or one per value of `guidance.curve`, which varies the argument named by `knob`."""

from collections.abc import Mapping
from typing import Any

from rdt.errors import UsageError

NO_ARGUMENTS = ("name", "curve", "knob", "rules")


def points(guidance: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return, for every point of a resolved guidance config, the arguments and the `_target_` of its guidance.

    UsageError if `curve` is not a list of numbers, or if the guidance has no knob for them.
    """
    arguments = {key: value for key, value in guidance.items() if key not in NO_ARGUMENTS}
    curve = guidance.get("curve")
    if not curve:
        return [arguments]
    if not isinstance(curve, list):
        raise UsageError(f"guidance.curve={curve} is not a list; give its values as guidance.curve=[{curve}]")
    wrong = [value for value in curve if isinstance(value, bool) or not isinstance(value, int | float)]
    if wrong:
        raise UsageError(f"guidance.curve={curve} holds {wrong[0]}, which is no number")
    knob = knob_of(guidance)
    return [arguments | {knob: value} for value in dict.fromkeys(curve)]


def knob_of(guidance: Mapping[str, Any]) -> str:
    """Return the argument that `curve` varies; a mapping {key: {value: argument}} chooses it by another key's value."""
    knob = guidance.get("knob")
    if not isinstance(knob, Mapping):
        if knob is None:
            raise UsageError(f"guidance.curve={guidance['curve']}: guidance={guidance['name']} has no knob to vary")
        return knob
    ((key, by_value),) = knob.items()
    if guidance[key] not in by_value:
        *most, last = by_value
        raise UsageError(
            f"guidance.curve={guidance['curve']}: guidance={guidance['name']} has no knob to vary with"
            f" guidance.{key}={guidance[key]}; take {key}={', '.join(most)} or {last}"
        )
    return by_value[guidance[key]]
