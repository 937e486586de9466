"""What a guidance config asks for: one point, or one per value of its curve. `knob` names what in the module turns."""

from collections.abc import Mapping
from typing import Any

from omegaconf import OmegaConf

from rdt.errors import UsageError


def modules(guidance: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The module of a resolved guidance config, once per point; UsageError where its curve cannot be meant."""
    curve, knob = guidance.get("curve"), guidance.get("knob")
    if not curve:
        return [_turned(guidance["module"])]
    if not isinstance(curve, list):
        raise UsageError(f"guidance.curve={curve} is not a list; give its values as guidance.curve=[{curve}]")
    wrong = [value for value in curve if isinstance(value, bool) or not isinstance(value, int | float)]
    if wrong:
        raise UsageError(f"guidance.curve={curve} holds {wrong[0]}, which is no number")
    if knob is None:
        raise UsageError(
            f"guidance.curve={curve}: guidance={guidance['name']} has nothing to turn as it is set; take guidance=aig"
            " with schedule=power, step or constant, lora_scale, cads or cfg"
        )
    return [_turned(guidance["module"], knob, value) for value in dict.fromkeys(curve)]


def described(guidance: Mapping[str, Any]) -> dict[str, Any]:
    """What a guidance config does: its name and what its module is given, without the knobs that are not in force."""
    return {"name": guidance["name"]} | _arguments(guidance["module"])


def _turned(module: Mapping[str, Any], knob: str | None = None, value: float | None = None) -> dict[str, Any]:
    made = OmegaConf.create(dict(module))
    if knob is not None:
        OmegaConf.update(made, knob, value)
    return OmegaConf.to_container(made)


def _arguments(module: Mapping[str, Any]) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in module.items():
        if isinstance(value, Mapping):
            flat |= ({key: value["_target_"].rpartition(".")[2]} if "_target_" in value else {}) | _arguments(value)
        elif not key.startswith("_") and value is not None:
            flat[key] = float(value) if type(value) is int else value
    return flat
