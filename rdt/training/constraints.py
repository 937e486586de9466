"""Budgets of what is watched while training: bounds from the `constraint` section of a config, plain numbers."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from omegaconf import DictConfig, OmegaConf

from rdt.errors import UsageError

ACTIONS = ("warn", "stop", "rollback", "adapt")
UNBOUND = {"min": None, "max": None, "action": "warn", "rate": 1.0}
SHORT = re.compile(r"^constraint\.(\w+)(>=|<=)(.+)$")


@dataclass(frozen=True)
class Budget:
    """The bounds of one quantity, and what happens past them."""

    name: str
    least: float | None
    most: float | None
    action: str  # one of ACTIONS
    rate: float  # of the dual ascent

    def overdrawn(self, value: float) -> float:
        """By what share of the bound, within +-1; negative while inside."""
        beyond = [] if self.most is None else [(value - self.most) / max(abs(self.most), 1e-12)]
        beyond += [] if self.least is None else [(self.least - value) / max(abs(self.least), 1e-12)]
        return max(-1.0, min(1.0, max(beyond)))

    def __str__(self) -> str:
        bounds = {"min": self.least, "max": self.most}
        return " ".join(f"constraint.{self.name}.{key}={v:g}" for key, v in bounds.items() if v is not None)


def budgets(config: Mapping[str, Any]) -> list[Budget]:
    """Those of the `constraint` section that have a bound; ValueError where one is no number or cannot be acted on."""
    found = []
    for name, given in config.items():
        if not isinstance(given, Mapping):
            continue
        c = UNBOUND | dict(given)
        for key in ("min", "max"):
            if isinstance(c[key], bool) or not isinstance(c[key], int | float | None):
                raise ValueError(f"constraint.{name}.{key}={c[key]} is not a number")
        if c["action"] not in ACTIONS:
            raise ValueError(f"constraint.{name}.action={c['action']} is not one of {', '.join(ACTIONS)}")
        if c["min"] is not None and c["max"] is not None and c["min"] > c["max"]:
            raise ValueError(f"constraint.{name}.min={c['min']} exceeds constraint.{name}.max={c['max']}")
        if not c["min"] is c["max"] is None:
            found.append(Budget(name, c["min"], c["max"], c["action"], c["rate"]))
    return found


def check(cfg: DictConfig) -> None:
    """UsageError unless bounds are numbers, what they bound is measured, and what adapts has a coefficient to adapt."""
    for budget in budgets(OmegaConf.to_container(cfg.constraint)):
        kl_coef = OmegaConf.select(cfg, "method.kl_coef")
        if not kl_coef and (budget.name == "kl" or budget.action == "adapt"):
            needs = "weighs no KL" if budget.name == "kl" else "has none to adapt"
            raise UsageError(
                f"{budget}: method={cfg.method.name} {needs}, method.kl_coef={kl_coef}; it must be above 0"
            )
        if budget.name != "kl" and not cfg.evaluation.every:
            raise UsageError(f"{budget} is looked at by small evaluations; evaluation.every=0 makes none")
        if budget.name == "gap" and cfg.constraint.judge not in cfg.evaluation.judges:
            judges = ", ".join(cfg.evaluation.judges) or "none"
            raise UsageError(f"constraint.judge={cfg.constraint.judge} is not one of evaluation.judges: {judges}")


def spelt_out(argument: str) -> list[str]:
    """constraint.kl<=20 as Hydra reads it, to be met by adapting the KL coefficient; any other argument as it is."""
    short = SHORT.match(argument)
    if short is None:
        return [argument]
    name, sign, bound = short.groups()
    return [f"constraint.{name}.{'min' if sign == '>=' else 'max'}={bound}", f"constraint.{name}.action=adapt"]
