"""Which keys were typed and have no effect: each is a line, which a run and its dry run print.

A yaml states when a key has an effect (rdt/config/rules.py). What no rule can state is here: keys that others refer to,
evaluations that are never due, and bounds that are not set.
"""

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from rdt.config.check import shown
from rdt.config.keys import override_key
from rdt.config.rules import Condition, conditions
from rdt.targets import conf_dir

REFERRED = re.compile(r"precision|cache|model\.(?:look_ahead|checkpoints\.\w+)")  # read through other keys alone
ADDED = re.compile(r"\+((?:(?:evaluation|trainer)\.)?\w+)=")  # a new key where only the known ones are read
BOUND = re.compile(r"(constraint\.\w+)\.(?:action|rate)")


@dataclass(frozen=True)
class Effects:
    """Holds what decides whether typed keys have an effect; it is known before a config is resolved."""

    conditions: dict[str, Condition]
    unread: frozenset[str]  # typed keys that no key refers to

    @staticmethod
    def of(cfg: DictConfig, words: Sequence[str]) -> "Effects":
        """Return those of the words that were typed, and of a config that still shows its rules and references."""
        written = OmegaConf.to_yaml(cfg)
        found = {key: named[0] for key in map(override_key, words) if (named := REFERRED.match(key))}
        added = (named[1] for word in words if (named := ADDED.match(word)))
        found |= {key: key for key in added if not Path(conf_dir(), key).is_dir()}
        return Effects(conditions(cfg), frozenset(key for key, name in found.items() if f"${{{name}" not in written))

    def notes(self, cfg: DictConfig, words: Sequence[str]) -> Iterator[str]:
        """Yield a line for each typed key of the resolved config that has no effect."""
        typed = sorted(set(map(override_key, words)))
        given = {key: f"{key}={shown(OmegaConf.select(cfg, key))} has no effect" for key in typed}
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
            elif key == "evaluation.every" and cfg.get("iterations", math.inf) < cfg.evaluation.every:
                yield f"{line} with iterations={cfg.iterations}: training ends before the first evaluation"


def _is_bounded(cfg: DictConfig, section: str) -> bool:
    """Return whether a constraint has a bound."""
    return any(OmegaConf.select(cfg, f"{section}.{end}") is not None for end in ("min", "max"))
