"""What values are refused: each fault is a line with the key, the value and what would be right.

`refused_values` compares the composed config with its defaults and with the rules that its yamls state
(rdt/config/rules.py). Each refused value is replaced by its default, so that later checks find what else is wrong.
"""

import math
import re
from collections.abc import Iterator
from typing import Any

from omegaconf import DictConfig, ListConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from rdt.config import compose, quoting
from rdt.config.rules import REFERENCE, Rule, parsed_rule, rule_of, stated_rules, type_name, without_rules
from rdt.errors import Refused

CHECKPOINT = re.compile(r"\$\{(model\.checkpoints\.[\w.]+)\}")
NULLABLE = ("sha256",)  # keys of a checkpoint whose value may be null
LARGEST = 2**63 - 1
REMOVABLE = re.compile(  # sections that a run can do without
    r"diversity\.(measures|fidelity|overall|embedders)\.\w+.*|evaluation\.(judges\.\w+.*|limit)|reward\.parts\.\w+"
    r"|logger\.wandb|method\.(surrogates\.\w+|plan)|model\.checkpoints\.\w+|guidance|sweep|without|hardware|hydra.*"
)


def values(cfg: DictConfig, hydra_config: Any) -> None:
    """Raise Refused with every value that is missing, of another type than its default, or against a rule.

    Remove the rules. The config must not be resolved yet: a wrong value is named by its own key, not by those that
    refer to it.
    """
    if faults := refused_values(cfg, hydra_config):
        raise Refused(faults)


def refused_values(cfg: DictConfig, hydra_config: Any) -> list[str]:
    """Return what `values` refuses, and give each refused key its default."""
    default = compose.with_defaults(hydra_config)
    faults = {}
    with open_dict(cfg):
        for key in list(_missing(cfg)):
            _reset(cfg, default, key)
            lack = "has no default" if OmegaConf.select(cfg, key) is None else "is no value"
            faults[key] = f"{key}=??? {lack}; give {key}=..."
        for key, fault in _wrong_types(cfg, default):
            faults[key] = fault
            _reset(cfg, default, key)
        for key, text in stated_rules(cfg).items():
            if key not in faults and (broken := _broken_rule(cfg, key, text)):
                faults[key] = broken
                _reset(cfg, default, key)
    without_rules(cfg)
    return list(faults.values())


def check_checkpoints(cfg: DictConfig, config_name: str) -> None:
    """Raise Refused if the chosen model has no checkpoint for a reward; the config must not be resolved yet."""
    if faults := list(missing_checkpoints(cfg, config_name)):
        raise Refused(faults)


def missing_checkpoints(cfg: DictConfig, config_name: str) -> Iterator[str]:
    """Yield a line for each reward whose checkpoint the chosen model does not have."""
    read = {found[1] for text in _texts(OmegaConf.to_container(cfg)) if (found := CHECKPOINT.fullmatch(text))}
    for section in sorted(key for key in read if not _offered(cfg, key)):
        models = compose.with_each("model", config_name)
        offering = [f"model={name}" for name, other in models if _offered(other, section)]
        keys = [key for key in OmegaConf.select(cfg, section) or {} if not _offered(cfg, f"{section}.{key}")]
        given = [f"{section}.{key}=..." for key in keys] or [f"+{section}.checkpoint=..."]
        yield (
            f"model={cfg.model.name} has no checkpoint for {section.rpartition('.')[2]}:"
            f" {' or '.join(offering) or 'no model'} has one, or give {' '.join(given)}"
        )


def _missing(node: DictConfig, prefix: str = "") -> Iterator[str]:
    """Yield the keys whose value must be given and is not."""
    for key in node:
        if OmegaConf.is_missing(node, key):
            yield f"{prefix}{key}"
        elif not OmegaConf.is_interpolation(node, key) and isinstance(node[key], DictConfig):
            yield from _missing(node[key], f"{prefix}{key}.")


def _wrong_types(cfg: DictConfig, default: DictConfig) -> Iterator[tuple[str, str]]:
    """Yield each key whose value has another type than its default, and what is wrong with it."""
    rules = {key: parsed_rule(text) for key, text in stated_rules(cfg).items()}
    written, usually = OmegaConf.to_container(cfg), OmegaConf.to_container(default)
    for key, usual in _expected(default):
        if REFERENCE.search(str(_plain(usually, key))) and _plain(written, key) == _plain(usually, key):
            continue  # it still refers to another key, which is checked itself
        rule = rules.get(key, Rule())
        try:
            found, value = _value(cfg, key)
            if found != key:
                if not (value is None and REMOVABLE.fullmatch(found)):
                    yield found, f"{found}={shown(value)} is {type_name(value)}, expected a section"
            elif value is not None or not (rule.nullable or usual is None):
                free = bool(rule.type or rule.choices) or usual is None
                if fault := _wrong_type(key, value, usual, free):
                    yield key, fault
        except OmegaConfBaseException as error:  # an interpolation that leads nowhere
            reason = compose.without_key(error)
            yield key, reason if reason.startswith(key) else f"{key}: {reason}"


def _wrong_type(key: str, value: Any, usual: Any, free: bool) -> str | None:
    """Return what is wrong with the type of a value; if it is free, only what is wrong with any value."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        if not math.isfinite(value):
            return f"{key}={value} is not a finite number"
        if isinstance(value, int) and abs(value) > LARGEST:
            return f"{key}={value} is too large: integers go from {-LARGEST} to {LARGEST}"
    accepted = (int, float) if isinstance(usual, float) else (type(usual),)
    same = isinstance(value, accepted) and isinstance(value, bool) == isinstance(usual, bool)
    if not free and not same:
        return _expectation(key, value, usual)
    odd = next((one for one in value if _odd(one, usual)), None) if isinstance(value, ListConfig) and same else None
    return (
        None
        if odd is None
        else f"{key}={shown(value)} holds {shown(odd)}, which is {type_name(odd)}, "
        + (f"expected elements such as {usual[0]}")
    )


def _expectation(key: str, value: Any, usual: Any) -> str:
    """Return that the type of a value is not the usual one, and how to write a number that is meant as a text."""
    if isinstance(usual, DictConfig):
        return f"{key}={shown(value)} is {type_name(value)}, expected a section"
    fault = f"{key}={shown(value)} is {type_name(value)}, expected {type_name(usual)} such as {usual}"
    return fault + (_as_text(key, value) if isinstance(usual, str) else "")


def _as_text(key: str, value: Any) -> str:
    """Return how to write a number or a truth value that is meant as a text."""
    if not isinstance(value, bool | int | float):
        return ""
    return f"; as a text it is {quoting.for_shell(f'{key}={quoting.text(shown(value))}')}"


def _odd(element: Any, usual: ListConfig) -> bool:
    """Return whether an element of a list is of another type than the usual elements, if these share one."""
    kinds = {type(one) for one in usual}
    kinds |= {int, float} if kinds & {int, float} else set()
    return bool(usual) and type(element) not in kinds


def _broken_rule(cfg: DictConfig, key: str, text: str) -> str | None:
    """Return how a value breaks its rule, or that the key which a choice needs is not set."""
    rule, written = rule_of(cfg, text)
    value = OmegaConf.select(cfg, key)
    if refusal := rule.refusal(value, written):
        return f"{key}={shown(value)} {refusal}" + (_as_text(key, value) if rule.type == "a text" else "")
    needed = rule.choices.get(str(value))
    if needed and OmegaConf.select(cfg, needed) is None:
        others = " or ".join(choice for choice in rule.choices if choice != str(value))
        return f"{key}={value} needs {needed}, which is not set; set {key}={others}"
    return None


def _expected(node: DictConfig, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield dotted keys and values of the defaults: what an interpolation refers to, also if that is a section."""
    for key in node:
        try:
            value = None if OmegaConf.is_missing(node, key) else node[key]
        except OmegaConfBaseException:  # it refers to a value that must be given
            continue
        if isinstance(value, DictConfig) and not OmegaConf.is_interpolation(node, key) and len(value):
            yield from _expected(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _plain(tree: Any, key: str) -> Any:
    """Return what stands at a dotted key of a container, None if nothing does."""
    for part in key.split("."):
        tree = tree.get(part) if isinstance(tree, dict) else None
    return tree


def _value(cfg: DictConfig, key: str) -> tuple[str, Any]:
    """Return the value at a dotted key, or the value that stands in place of a section on the way, with its key."""
    node: Any = cfg
    parts = key.split(".")
    for depth, part in enumerate(parts):
        if not isinstance(node, DictConfig):
            return ".".join(parts[:depth]), node
        node = node.get(part)
    return key, node


def _reset(cfg: DictConfig, default: DictConfig, key: str) -> None:
    """Give a key its default, as the yamls write it."""
    section, _, name = key.rpartition(".")
    node = OmegaConf.select(default, section) if section else default
    usual = None if node is None or OmegaConf.is_missing(node, name) else node._get_node(name)
    OmegaConf.update(cfg, key, usual, merge=False, force_add=True)


def shown(value: Any) -> str:
    """Return a value as one would type it."""
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def _offered(cfg: DictConfig, key: str) -> bool:
    """Return whether the model has this checkpoint, or this entry of a checkpoint."""
    value = OmegaConf.select(cfg, key)
    if isinstance(value, DictConfig):
        return all(_offered(cfg, f"{key}.{name}") for name in value)
    section, _, name = key.rpartition(".")
    return value is not None or (name in NULLABLE and name in (OmegaConf.select(cfg, section) or {}))


def _texts(tree: Any) -> Iterator[str]:
    """Yield all texts in a container."""
    if isinstance(tree, str):
        yield tree
    for branch in tree.values() if isinstance(tree, dict) else tree if isinstance(tree, list) else ():
        yield from _texts(branch)
