"""Sentinels: what over-optimisation shows first, watched while training against stated budgets.

`adapt` is dual ascent on the KL coefficient, in its logarithm, so that it stays positive:
    log kl_coef += rate * overdrawn, where overdrawn is by what share of its bound a quantity is beyond it, within +-1.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any

import lightning as L
from torch import Tensor

from rdt.budgets import Budget
from rdt.callbacks import EvaluateEvery
from rdt.methods.base import Method

Values = Mapping[str, float]


class Sentinels(L.Callback):
    """Looks at each quantity when it is new; decisions are made on what all ranks know, so all make the same."""

    def __init__(self, watched: list[Budget], evaluations: EvaluateEvery, reward: str, judge: str) -> None:
        self.budgets, self.evaluations = watched, evaluations
        self.reward, self.judge = reward, judge
        self.returns = any(budget.action == "rollback" for budget in watched)
        self.seen: dict[str, float] = {}  # the newest value of each
        self.good: dict[str, Any] = {}  # iteration and adapter of the last look at which every budget held
        self.kl_coef: float | None = None  # where it was adapted

    def on_train_start(self, trainer: L.Trainer, method: L.LightningModule) -> None:
        """A continued run goes on with the coefficient it had come to."""
        if self.kl_coef is not None:
            method.kl_coef = self.kl_coef

    def on_train_batch_end(
        self, trainer: L.Trainer, method: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """After the small evaluation of this iteration, before its checkpoint."""
        new = self.news(trainer.callback_metrics, batch.iteration)
        self.seen |= new
        beyond = [b for b in self.budgets if b.name in self.seen and b.overdrawn(self.seen[b.name]) > 0]
        for budget in self.budgets:
            if budget.name in new and (budget in beyond or budget.action == "adapt"):
                ACTIONS[budget.action](self, budget, method)
        if self.returns and new and not beyond and len(self.seen) == len(self.budgets):
            adapter = {name: weight.detach().clone() for name, weight in method.policy.lora().items()}
            self.good = {"iteration": batch.iteration + 1, "adapter": adapter}

    def news(self, metrics: Mapping[str, Tensor], iteration: int) -> dict[str, float]:
        """What this iteration tells of the watched quantities."""
        told = {"kl": float(metrics["train/kl_nats"])} if "train/kl_nats" in metrics else {}
        if self.evaluations.at == iteration:
            told |= drifts(self.evaluations.latest, self.evaluations.base, self.reward, self.judge)
            for budget in self.budgets:
                if budget.name not in ("kl", *told):
                    raise ValueError(f"{budget}: nothing measures {budget.name} here; there is {', '.join(told)}")
        return {budget.name: told[budget.name] for budget in self.budgets if budget.name in told}

    def warn(self, budget: Budget, method: Method, then: str = "") -> None:
        """One line."""
        if method.global_rank == 0:
            value = self.seen[budget.name]
            print(f"{budget} is not met: {value:.4g} after iteration {method.iteration + 1}{then}", flush=True)

    def stop(self, budget: Budget, method: Method) -> None:
        """The run ends here, is evaluated and recorded."""
        self.warn(budget, method, "; training ends")
        method.ended = str(budget)

    def rollback(self, budget: Budget, method: Method) -> None:
        """The run ends with the adapter that met every budget; with the base's where none did."""
        at = self.good.get("iteration", 0)
        self.warn(budget, method, f"; training ends with the adapter of iteration {at}")
        blank = {name: weight * (".lora_A." in name) for name, weight in method.policy.lora().items()}
        method.policy.load_lora(self.good.get("adapter", blank))
        method.ended = str(budget)

    def adapt(self, budget: Budget, method: Method) -> None:
        """A step of dual ascent; of descent where the budget is not used up."""
        method.kl_coef *= math.exp(budget.rate * budget.overdrawn(self.seen[budget.name]))
        self.kl_coef = method.kl_coef
        method.report(kl_coef=method.kl_coef)

    def state_dict(self) -> dict[str, Any]:
        return {"seen": self.seen, "good": self.good, "kl_coef": self.kl_coef}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.seen, self.good, self.kl_coef = state_dict["seen"], state_dict["good"], state_dict["kl_coef"]


ACTIONS: dict[str, Callable[[Sentinels, Budget, Method], None]] = {
    "warn": Sentinels.warn, "stop": Sentinels.stop, "rollback": Sentinels.rollback, "adapt": Sentinels.adapt,
}  # fmt: skip


def drifts(now: Values, base: Values, reward: str, judge: str) -> dict[str, float]:
    """What a small evaluation says beside the base's; a reward that has no such judge has no gap."""
    told = dict(now)
    told["brightness"] = abs(now["brightness"] - base["brightness"])
    told["latent_norm"] = abs(now["latent_rms"] / base["latent_rms"] - 1)
    if reward in now and judge in now:
        told["gap"] = (now[reward] - base[reward]) - (now[judge] - base[judge])
    return told
