"""Which keys were typed and have no effect: each is a line, which a run and its dry run print.

A yaml states when a key has an effect (rdt/config/rules.py). What no rule can state is here: keys that others refer to,
evaluations that are never due, and bounds that are not set.
"""

import re
from collections.abc import Iterator, Set
from dataclasses import dataclass

from omegaconf import DictConfig, OmegaConf

from rdt.config.check import shown
from rdt.config.rules import Condition, conditions

REFERRED = re.compile(
    r"precision|cache|model\.(?:look_ahead|checkpoints\.\w+)"
)  # they act where another key names them
BOUND = re.compile(r"(constraint\.\w+)\.(?:action|rate)")


@dataclass(frozen=True)
class Effects:
    """Holds what decides whether typed keys have an effect; it is known before a config is resolved."""

    conditions: dict[str, Condition]
    unread: frozenset[str]  # typed keys that no key refers to

    @staticmethod
    def of(cfg: DictConfig, typed: Set[str]) -> "Effects":
        """Return those of a config that still shows its rules and which keys refer to which."""
        written = OmegaConf.to_yaml(cfg)
        found = {key: named[0] for key in typed if (named := REFERRED.match(key))}
        return Effects(conditions(cfg), frozenset(key for key, name in found.items() if f"${{{name}" not in written))

    def notes(self, cfg: DictConfig, typed: Set[str]) -> Iterator[str]:
        """Yield a line for each typed key of the resolved config that has no effect."""
        given = {key: f"{key}={shown(OmegaConf.select(cfg, key))} has no effect" for key in sorted(typed)}
        for key, line in given.items():
            condition = self.conditions.get(key)
            if key in self.unread:
                yield f"{line}: nothing in this run reads it"
            elif condition and not condition.is_met(value := OmegaConf.select(cfg, condition.key)):
                yield f"{line} with {condition.key}={shown(value)}"
            elif (found := BOUND.fullmatch(key)) and not _is_bounded(cfg, found[1]):
                yield f"{line} without {found[1]}.min or {found[1]}.max"
            elif key == "constraint.judge" and not _is_bounded(cfg, "constraint.gap"):
                yield f"{line} without constraint.gap.min or constraint.gap.max"
            elif key == "evaluation.every" and cfg.evaluation.every > cfg.iterations:
                yield f"{line} with iterations={cfg.iterations}: training ends before the first evaluation"


def _is_bounded(cfg: DictConfig, section: str) -> bool:
    """Return whether a constraint has a bound."""
    return any(OmegaConf.select(cfg, f"{section}.{end}") is not None for end in ("min", "max"))
