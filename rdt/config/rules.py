"""The notation in which a yaml states what its values may be.

A section of the config may hold a mapping `rules`, from its keys to:

    replay: prioritized | uniform | on_policy                       one of these choices
    look_ahead: consistency (needs model.policy.consistency) | tweedie      a choice that needs another key
    lr: greater than 0                                              a bound; the type is that of the default
    window: an integer greater than 0 or null                       a type, for a key whose default is null
    capacity: at least 1 and a multiple of ${batch_size}            two bounds, one by another value
    precision: fp32 | bf16; fp16 would need loss scaling            choices, and why there are no others

Bounds are `greater than`, `at least`, `at most`, `from .. to ..`, `a multiple of` and `a divisor of`. The check applies
the rules and removes them; error messages and the documentation print them as they are written.
"""

import operator
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from omegaconf import DictConfig, ListConfig, OmegaConf, open_dict

RULES = "rules"
TYPES = {
    "a truth value": (bool,),
    "an integer": (int,),
    "a number": (int, float),
    "a text": (str,),
    "a list": (list, ListConfig),
}
BOUNDS: dict[str, Callable[..., bool]] = {
    r"greater than (\S+)": operator.gt,
    r"at least (\S+)": operator.ge,
    r"at most (\S+)": operator.le,
    r"from (\S+) to (\S+)": lambda value, low, high: low <= value <= high,
    r"a multiple of (\S+)": lambda value, unit: value % unit == 0,
    r"a divisor of (\S+)": lambda value, whole: whole % value == 0,
}
CHOICE = re.compile(r"([\w.-]+)(?: \(needs ([\w.]+)\))?")
REFERENCE = re.compile(r"\$\{([\w.]+)\}")


@dataclass(frozen=True)
class Rule:
    """States what one value may be."""

    choices: dict[str, str | None]  # the key that a choice needs, or None; empty unless the value is a choice
    type: str | None  # one of TYPES; None: that of the default
    bounds: list[str]  # each matches one of BOUNDS; numbers in place of references
    nullable: bool
    reason: str = ""  # why there are no other choices

    def refusal(self, value: Any, written: str) -> str | None:
        """Return what is wrong with a value, or None; `written` is the rule for the message."""
        if value is None:
            return None if self.nullable else "is nothing"
        if self.choices:
            reason = f": {self.reason}" if self.reason else ""
            return None if str(value) in self.choices else f"is not one of {', '.join(self.choices)}{reason}"
        expected = self.type or ("a number" if self.bounds else None)
        if expected and not _is(value, expected):
            return f"is {type_name(value)}, expected {expected}"
        if not all(_holds(bound, value) for bound in self.bounds):
            return f"must be {written}"
        return None


def parsed_rule(text: str) -> Rule:
    """Return the rule that a text states; ValueError if it states none."""
    text, _, reason = text.partition("; ")
    body, nullable = text.removesuffix(" or null"), text.endswith(" or null")
    parts = [CHOICE.fullmatch(part) for part in body.split(" | ")]
    if len(parts) > 1 and all(parts):
        return Rule({part[1]: part[2] for part in parts if part}, None, [], nullable, reason)
    type = next((name for name in TYPES if body.startswith(name)), None)
    bounds = [bound for bound in body.removeprefix(type or "").strip().split(" and ") if bound]
    for bound in bounds:
        if not any(re.fullmatch(pattern, bound) for pattern in BOUNDS):
            raise ValueError(f"{text!r} is not a rule: {bound!r} is none of the bounds of rdt/config/rules.py")
    return Rule({}, type, bounds, nullable)


def rules_of(cfg: DictConfig) -> dict[str, tuple[Rule, str]]:
    """Return, by dotted key, every rule of a config and how messages write it, with the values that it refers to."""

    def filled(text: str, form: str) -> str:
        return REFERENCE.sub(lambda found: form.format(key=found[1], value=OmegaConf.select(cfg, found[1])), text)

    return {key: (parsed_rule(filled(text, "{value}")), filled(text, "{key}={value}")) for key, text in _found(cfg)}


def without_rules(cfg: DictConfig) -> DictConfig:
    """Remove the rules of a config, in place, and return it."""
    for _, section in list(_sections(cfg)):
        if RULES in section:
            with open_dict(section):
                del section[RULES]
    return cfg


def type_name(value: Any) -> str:
    """Return what messages call the type of a value."""
    if value is None:
        return "nothing"
    return next((name for name in TYPES if _is(value, name)), "a section")


def _found(cfg: DictConfig) -> Iterator[tuple[str, str]]:
    """Yield dotted keys and the texts of their rules."""
    for prefix, section in _sections(cfg):
        if RULES in section:
            for key, text in OmegaConf.to_container(section[RULES]).items():
                yield f"{prefix}{key}", str(text)


def _sections(node: DictConfig, prefix: str = "") -> Iterator[tuple[str, DictConfig]]:
    """Yield a section and all sections below it, each with the prefix of its keys."""
    yield prefix, node
    for key in list(node):
        if key == RULES or OmegaConf.is_missing(node, key) or OmegaConf.is_interpolation(node, key):
            continue
        if isinstance(node[key], DictConfig):
            yield from _sections(node[key], f"{prefix}{key}.")


def _is(value: Any, name: str) -> bool:
    return isinstance(value, TYPES[name]) and (name == "a truth value" or not isinstance(value, bool))


def _holds(bound: str, value: float) -> bool:
    for pattern, relation in BOUNDS.items():
        if match := re.fullmatch(pattern, bound):
            return relation(value, *map(float, match.groups()))
    raise ValueError(f"{bound!r} is no bound")
