"""The callback that watches constraints while training and warns, stops, rolls back or adapts the KL coefficient.

`adapt` is dual ascent on the logarithm of the KL coefficient, so that the coefficient stays positive:
    log kl_coef += rate * violation, where violation is in [-1, 1] and negative while the constraint is met.
"""

import math
from collections.abc import Mapping
from typing import Any

import lightning as L
from torch import Tensor

from rdt.methods.base import Method
from rdt.policy import INIT, Policy
from rdt.sentinels import SENTINELS
from rdt.training.average import kept_adapter, restore
from rdt.training.callbacks import SmallEvaluations
from rdt.training.constraints import Constraint


class ConstraintWatch(L.Callback):
    """Checks each constrained quantity when it has a new value.

    All ranks decide alike, because they decide on values that all ranks know.
    """

    def __init__(self, constraints: list[Constraint], evaluations: SmallEvaluations, reward: str, judge: str) -> None:
        self.constraints, self.evaluations = constraints, evaluations
        self.reward, self.judge = reward, judge
        self.keeps_adapter = any(constraint.action == "rollback" for constraint in constraints)
        self.values: dict[str, float] = {}  # the newest value of each constrained quantity
        self.good: dict[str, Any] = {}  # "iteration" and "adapter" of the last check at which all constraints were met
        self.kl_coef: float | None = None  # set once it has been adapted

    def on_train_start(self, trainer: L.Trainer, method: L.LightningModule) -> None:
        """Give a resumed run the coefficient that it had been adapted to."""
        if self.kl_coef is not None:
            method.kl_coef = self.kl_coef

    def on_train_batch_end(
        self, trainer: L.Trainer, method: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Check the constraints after this iteration's small evaluation and before its checkpoint."""
        new = self.new_values(trainer.callback_metrics, batch.iteration)
        self.values |= new
        violated = [c for c in self.constraints if c.name in self.values and c.violation(self.values[c.name]) > 0]
        for constraint in self.constraints:
            if constraint.name in new and (constraint in violated or constraint.action == "adapt"):
                self.act(constraint, method)
        if self.keeps_adapter and new and not violated and len(self.values) == len(self.constraints):
            self.good = {"iteration": batch.iteration + 1, "adapter": kept_adapter(method.policy)}

    def new_values(self, metrics: Mapping[str, Tensor], iteration: int) -> dict[str, float]:
        """Return the constrained quantities that were measured in this iteration, by name."""
        found = {"kl": float(metrics["train/kl_nats"])} if "train/kl_nats" in metrics else {}
        if self.evaluations.at == iteration:
            found |= quantities(self.evaluations.latest, self.evaluations.base, self.reward, self.judge)
            for constraint in self.constraints:
                if constraint.name not in ("kl", *found):
                    measured = ", ".join(found)
                    raise ValueError(f"{constraint}: {constraint.name} is not measured; choose one of {measured}")
        return {constraint.name: found[constraint.name] for constraint in self.constraints if constraint.name in found}

    def act(self, constraint: Constraint, method: Method) -> None:
        """Take the constraint's action."""
        actions = {"warn": self.warn, "stop": self.stop, "rollback": self.rollback, "adapt": self.adapt}
        actions[constraint.action](constraint, method)

    def warn(self, constraint: Constraint, method: Method, consequence: str = "") -> None:
        """Print on rank 0 that the constraint is violated."""
        if method.global_rank == 0:
            value, done = self.values[constraint.name], method.iteration + 1
            print(f"{constraint} is not met: {value:.4g} after iteration {done}{consequence}", flush=True)

    def stop(self, constraint: Constraint, method: Method) -> None:
        """End training with this iteration; the run is then evaluated and recorded as usual."""
        self.warn(constraint, method, "; training ends")
        method.ended = str(constraint)

    def rollback(self, constraint: Constraint, method: Method) -> None:
        """End training with the last adapter that met all constraints, or with the one it began from if none did."""
        iteration = self.good["iteration"] if self.good else 0
        self.warn(constraint, method, f"; training ends with the adapter of iteration {iteration}")
        restore(method.policy, self.good["adapter"] if self.good else starting_adapter(method.policy))
        method.ended = str(constraint)

    def adapt(self, constraint: Constraint, method: Method) -> None:
        """Take a step of dual ascent; it lowers the coefficient while the constraint is met."""
        method.kl_coef *= math.exp(constraint.rate * constraint.violation(self.values[constraint.name]))
        self.kl_coef = method.kl_coef
        self.log("train/kl_coef", method.kl_coef, prog_bar=True)

    def state_dict(self) -> dict[str, Any]:
        return {"values": self.values, "good": self.good, "kl_coef": self.kl_coef}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.values, self.good, self.kl_coef = state_dict["values"], state_dict["good"], state_dict["kl_coef"]


def starting_adapter(policy: Policy) -> dict[str, Tensor]:
    """Return the adapter that training began from: the LoRA of init_lora, or one that leaves the base as it is."""
    if INIT in policy.snapshots:
        return {name: weight.clone() for name, weight in policy.lora(INIT).items()}
    return {name: weight * (".lora_A." in name) for name, weight in policy.lora().items()}


def quantities(tuned: Mapping[str, float], base: Mapping[str, float], reward: str, judge: str) -> dict[str, float]:
    """Return what constraints can bound after a small evaluation: its means, and how far they moved from the base's.

    "gap" is there only if the evaluation holds both the reward and the judge.
    """
    found = dict(tuned)
    found |= {name: abs(tuned[name] - base[name]) for name in SENTINELS if name in tuned}
    found["latent_norm"] = abs(tuned["latent_rms"] / base["latent_rms"] - 1)
    if reward in tuned and judge in tuned:
        found["gap"] = (tuned[reward] - base[reward]) - (tuned[judge] - base[judge])
    return found
