"""The notation in which a yaml states what its values may be.

A section of the config may hold a mapping `rules`, from its keys to:

    replay: prioritized | uniform | on_policy                       one of these choices
    look_ahead: consistency (needs model.policy.consistency) | tweedie      a choice that needs another key
    lr: greater than 0                                              a bound; the type is that of the default
    window: an integer greater than 0 or null                       a type, for a key whose default is null
    capacity: at least 1 and a multiple of ${batch_size}            two bounds, one by another value
    grid: a list of 2 integers greater than 0                       a type, a length and a bound of a list's elements
    tags: a non-empty list of texts                                 at least one element
    precision: fp32 | bf16; fp16 needs loss scaling                 a note, which a refusal ends with
    n_step: at least 1 (only with method.look_ahead=n_step)         when the key has an effect
    window_within: at most 1 (not with method.window=null)          when it has none

Bounds are `greater than`, `less than`, `other than`, `at least`, `at most`, `from .. to ..`, `a multiple of`,
`a divisor of` and `of .. to .. characters`. The check applies the rules and removes them; error messages and the
documentation print them as they are written.
"""

import operator
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
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
ELEMENTS = {"texts": "a text", "integers": "an integer", "numbers": "a number"}
BOUNDS: dict[str, Callable[..., bool]] = {
    r"greater than (\S+)": operator.gt,
    r"less than (\S+)": operator.lt,
    r"other than (\S+)": operator.ne,
    r"at least (\S+)": operator.ge,
    r"at most (\S+)": operator.le,
    r"from (\S+) to (\S+)": lambda value, low, high: low <= value <= high,
    r"a multiple of (\S+)": lambda value, unit: value % unit == 0,
    r"a divisor of (\S+)": lambda value, whole: value != 0 and whole % value == 0,
    r"of (\S+) to (\S+) characters": lambda value, low, high: low <= len(value) <= high,
}
CHOICE = re.compile(r"([\w.-]+)(?: \(needs ([\w.]+)\))?")
LIST = re.compile(rf"a (non-empty )?list of (?:(\d+) )?({'|'.join(ELEMENTS)})\b(.*)")
CONDITION = re.compile(r"(.*) \((only|not) with ([\w.]+)=([\w.|-]+)\)")
ABSENT = object()
REFERENCE = re.compile(r"\$\{([\w.]+)\}")


@dataclass(frozen=True)
class Condition:
    """States which values of another key give a key an effect, or take it."""

    key: str
    values: tuple[str, ...]
    takes: bool = False  # these values take the effect

    def is_met(self, value: Any) -> bool:
        """Return whether the key has an effect if the other one has this value."""
        return any(_is_written(value, text) for text in self.values) != self.takes


@dataclass(frozen=True)
class Rule:
    """States what one value may be."""

    choices: dict[str, str | None] = field(default_factory=dict)  # the key that a choice needs, or None; {}: no choice
    type: str | None = None  # one of TYPES; None: that of the default
    bounds: tuple[str, ...] = ()  # each matches one of BOUNDS; numbers in place of references
    nullable: bool = False
    elements: "Rule | None" = None  # of a list
    length: int | None = None  # of a list
    filled: bool = False  # whether a list must not be empty
    note: str = ""  # what a refusal ends with
    condition: Condition | None = None  # None: the value always has an effect

    def refusal(self, value: Any, written: str) -> str | None:
        """Return what is wrong with a value, or None; `written` is the rule for the message."""
        reason = self._reason(value, written.removesuffix(f"; {self.note}"))
        return f"{reason}; {self.note}" if reason and self.note else reason

    def _reason(self, value: Any, written: str) -> str | None:
        if value is None:
            return None if self.nullable else "is nothing"
        if self.choices:
            return None if str(value) in self.choices else f"is not one of {', '.join(self.choices)}"
        expected = self.type or ("a number" if self.bounds else None)
        if expected and not _is(value, expected):
            return f"is {type_name(value)}, expected {expected}"
        whole = all(_holds(bound, value) for bound in self.bounds) and self.length in (None, _length(value))
        whole = whole and not (self.filled and not value)
        parts = value if self.elements and whole else ()
        if not whole or any(self.elements and self.elements.refusal(part, "") for part in parts):
            return f"must be {written}"
        return None


def parsed_rule(text: str) -> Rule:
    """Return the rule that a text states; ValueError if it states none."""
    stated, _, note = text.partition("; ")
    found = CONDITION.fullmatch(stated)
    body, how, key, values = found.groups() if found else (stated, "", "", "")
    condition = Condition(key, tuple(values.split("|")), takes=how == "not") if key else None
    return replace(_unconditional(body.removesuffix(" or null")), nullable=body.endswith(" or null"), note=note,
                   condition=condition)  # fmt: skip


def _unconditional(body: str) -> Rule:
    """Return the rule of a text without a note, a condition and `or null`."""
    parts = [CHOICE.fullmatch(part) for part in body.split(" | ")]
    if len(parts) > 1 and all(parts):
        return Rule({part[1]: part[2] for part in parts if part})
    if found := LIST.fullmatch(body):
        filled, length, elements, bounds = found.groups()
        inner = Rule(type=ELEMENTS[elements], bounds=_bounds(bounds))
        return Rule(type="a list", elements=inner, length=int(length) if length else None, filled=bool(filled))
    type = next((name for name in TYPES if re.match(rf"{name}\b", body)), None)
    return Rule(type=type, bounds=_bounds(body.removeprefix(type or "")))


def _bounds(text: str) -> tuple[str, ...]:
    """Return the bounds that a text joins by `and`; ValueError if one of them is no bound."""
    bounds = tuple(bound for bound in text.strip().split(" and ") if bound)
    for bound in bounds:
        if not any(re.fullmatch(pattern, bound) for pattern in BOUNDS):
            raise ValueError(f"{text.strip()!r} is not a rule: {bound!r} is none of the bounds of rdt/config/rules.py")
    return bounds


def stated_rules(cfg: DictConfig) -> dict[str, str]:
    """Return, by dotted key, the rules of a config for keys that it has; those that refer to others come last."""
    found = {key: text for key, text in _found(cfg) if _select(cfg, key) is not ABSENT}
    return dict(sorted(found.items(), key=lambda item: REFERENCE.search(item[1]) is not None))


def conditions(cfg: DictConfig) -> dict[str, Condition]:
    """Return, by dotted key, the condition under which the key has an effect."""
    rules = ((key, parsed_rule(text)) for key, text in stated_rules(cfg).items())
    return {key: rule.condition for key, rule in rules if rule.condition}


def rule_of(cfg: DictConfig, text: str) -> tuple[Rule, str]:
    """Return the rule that a text states, and how messages write it, with the values that it refers to."""

    def filled(form: str) -> str:
        return REFERENCE.sub(lambda found: form.format(key=found[1], value=_select(cfg, found[1])), text)

    return parsed_rule(filled("{value}")), CONDITION.sub(r"\1", filled("{key}={value}"))


def rules_of(cfg: DictConfig) -> dict[str, tuple[Rule, str]]:
    """Return, by dotted key, every rule of a config and how messages write it."""
    return {key: rule_of(cfg, text) for key, text in stated_rules(cfg).items()}


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


def _select(cfg: DictConfig, key: str) -> Any:
    """Return the value at a key, None if it refers to nothing, ABSENT if there is no such key."""
    return OmegaConf.select(cfg, key, default=ABSENT, throw_on_resolution_failure=False)


def _is_written(value: Any, text: str) -> bool:
    """Return whether a rule's text stands for a value, such as null, true, 0 (also 0.0) or a word."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        return bool(re.fullmatch(r"-?[\d.]+", text)) and value == float(text)
    return text == ("null" if value is None else str(value).lower() if isinstance(value, bool) else str(value))


def _length(value: Any) -> int | None:
    return len(value) if _is(value, "a list") else None


def _holds(bound: str, value: Any) -> bool:
    """Return whether a value meets a bound; a bound by a value that is null always holds."""
    for pattern, relation in BOUNDS.items():
        if match := re.fullmatch(pattern, bound):
            return "None" in match.groups() or relation(value, *map(_number, match.groups()))
    raise ValueError(f"{bound!r} is no bound")


def _number(text: str) -> int | float:
    """Return the number of a text; integers stay exact."""
    return int(text) if re.fullmatch(r"-?\d+", text) else float(text)
