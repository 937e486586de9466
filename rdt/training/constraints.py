"""Constraints on quantities that are measured while training: the bounds in the `constraint` section of a config.

This module imports neither torch nor Lightning, because a dry run checks constraints too. The callback that acts on
them is `rdt.training.constraint_callback.ConstraintWatch`.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from omegaconf import DictConfig, OmegaConf

from rdt.config.judges import compared_judge
from rdt.errors import UsageError

ACTIONS = ("warn", "stop", "rollback", "adapt")
UNBOUNDED = {"min": None, "max": None, "action": "warn", "rate": 1.0}
SHORTHAND = re.compile(r"^constraint\.(\w+)(>=|<=)(.+)$")


@dataclass(frozen=True)
class Constraint:
    """Bounds one quantity and names the action that is taken while a bound is violated."""

    name: str
    least: float | None
    most: float | None
    action: str  # one of ACTIONS
    rate: float  # step size of the dual ascent, if the action is "adapt"

    def violation(self, value: float) -> float:
        """Return by what share of the bound `value` violates it, clipped to [-1, 1]; negative inside the bounds."""
        shares = [] if self.most is None else [(value - self.most) / max(abs(self.most), 1e-12)]
        shares += [] if self.least is None else [(self.least - value) / max(abs(self.least), 1e-12)]
        return max(-1.0, min(1.0, max(shares)))

    def __str__(self) -> str:
        bounds = {"min": self.least, "max": self.most}
        return " ".join(f"constraint.{self.name}.{key}={v:g}" for key, v in bounds.items() if v is not None)


def constraints_of(config: Mapping[str, Any]) -> list[Constraint]:
    """Return the constraints that have a bound; ValueError if a bound or an action is not valid."""
    sections = {name: UNBOUNDED | dict(given) for name, given in config.items() if isinstance(given, Mapping)}
    for name, section in sections.items():
        _check_section(f"constraint.{name}", section)
    return [
        Constraint(name, section["min"], section["max"], section["action"], section["rate"])
        for name, section in sections.items()
        if not section["min"] is section["max"] is None
    ]


def _check_section(key: str, section: Mapping[str, Any]) -> None:
    """Raise ValueError unless the bounds are numbers in the right order and the action is known."""
    least, most, action = section["min"], section["max"], section["action"]
    for end, bound in (("min", least), ("max", most)):
        if isinstance(bound, bool) or not isinstance(bound, int | float | None):
            raise ValueError(f"{key}.{end}={bound} is not a number")
    if action not in ACTIONS:
        raise ValueError(f"{key}.action={action} is not one of {', '.join(ACTIONS)}")
    if least is not None and most is not None and least > most:
        raise ValueError(f"{key}.min={least} exceeds {key}.max={most}")


def check_constraints(cfg: DictConfig) -> None:
    """Raise UsageError unless every constrained quantity is measured and every action is possible in this run."""
    for constraint in constraints_of(OmegaConf.to_container(cfg.constraint)):
        kl_coef = OmegaConf.select(cfg, "method.kl_coef")
        if not kl_coef and (constraint.name == "kl" or constraint.action == "adapt"):
            missing = "no KL term" if constraint.name == "kl" else "no KL coefficient to adapt"
            raise UsageError(
                f"{constraint}: method={cfg.method.name} has {missing}: method.kl_coef={kl_coef}; it must be above 0"
            )
        if constraint.name != "kl" and not cfg.evaluation.every:
            raise UsageError(
                f"{constraint} is checked at small evaluations, and evaluation.every=0 runs none; set evaluation.every"
            )
        if constraint.name == "gap":
            _check_judge(constraint, cfg)


def _check_judge(constraint: Constraint, cfg: DictConfig) -> None:
    """Raise UsageError unless there is a judge whose gain is compared with the reward's."""
    judges = ", ".join(cfg.evaluation.judges) or "none"
    if cfg.constraint.judge is not None and cfg.constraint.judge not in cfg.evaluation.judges:
        raise UsageError(f"constraint.judge={cfg.constraint.judge} is not one of evaluation.judges: {judges}")
    if compared_judge(cfg) is None:
        raise UsageError(
            f"{constraint} needs a judge that is not trained on, and evaluation.judges has {judges}; add one, such as"
            " judges=[imagereward]"
        )


def expand_shorthand(argument: str) -> list[str]:
    """Return the overrides for `constraint.kl<=20`, met by adapting the KL coefficient; else the argument itself."""
    short = SHORTHAND.match(argument)
    if short is None:
        return [argument]
    name, sign, bound = short.groups()
    return [f"constraint.{name}.{'min' if sign == '>=' else 'max'}={bound}", f"constraint.{name}.action=adapt"]
