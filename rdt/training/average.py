"""The running average of the adapter's weights: a snapshot beside the trained adapter, which is what gets evaluated.

After every `every`-th iteration
    average <- d average + (1 - d) tuned,    d = min(decay, (1 + n) / (10 + n)),
n being how often that has happened: early averages forget the untrained start. Training never reads the average.
Evaluations run under it, and the saved LoRA is the average's; that of the last iteration lies beside it in lora/raw.
"""

from typing import Any

import lightning as L

from rdt.policy import TUNED, Policy
from rdt.stream import Batch

AVERAGE = "ema"  # the snapshot's name


class Averaging(L.Callback):
    """Keeps the average; it must run before the callbacks that evaluate or save."""

    def __init__(self, decay: float, every: int) -> None:
        self.decay, self.every = decay, every
        self.count = 0  # n

    def on_fit_start(self, trainer: L.Trainer, method: L.LightningModule) -> None:
        """Start from the adapter as it is, unless a checkpoint has brought an average."""
        if AVERAGE not in method.policy.snapshots:
            method.policy.keep(AVERAGE)

    def on_train_batch_end(
        self, trainer: L.Trainer, method: L.LightningModule, outputs: Any, batch: Batch, batch_idx: int
    ) -> None:
        """Move the average if this iteration is due."""
        if (batch.iteration + 1) % self.every == 0:
            method.policy.blend(AVERAGE, min(self.decay, (1 + self.count) / (10 + self.count)))
            self.count += 1

    def state_dict(self) -> dict[str, Any]:
        return {"count": self.count}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.count = state_dict["count"]


def evaluated(policy: Policy) -> str | None:
    """Return the snapshot that stands in for the trained adapter in evaluations: the average if there is one."""
    return AVERAGE if AVERAGE in policy.snapshots else None


def settle(policy: Policy) -> None:
    """Make the average the trained adapter at the end of training; its snapshot then holds the last iteration's."""
    if evaluated(policy):
        policy.exchange(AVERAGE)


def kept_adapter(policy: Policy) -> dict[str, Any]:
    """Return a copy of the weights that evaluations run under."""
    return {name: weight.detach().clone() for name, weight in policy.lora(evaluated(policy) or TUNED).items()}


def restore(policy: Policy, weights: dict[str, Any]) -> None:
    """Give these weights to the trained adapter, and to the average if there is one."""
    policy.load_lora(weights)
    if evaluated(policy):
        policy.keep(AVERAGE)
