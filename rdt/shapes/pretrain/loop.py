"""Every stage of the pretraining shares this one training loop, which can be resumed."""

import math
import time
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from rdt.files import replacing


@dataclass(frozen=True)
class Plan:
    """Says how long and how fast one stage trains."""

    name: str
    steps: int
    lr: float
    ema: float = 0.0  # decay of the averaged weights; 0 uses the last weights
    warmup: int = 100
    weight_decay: float = 0.01


def fit(plan: Plan, model: nn.Module, loss: Callable[[torch.Generator], Tensor], work: Path, seed: int) -> nn.Module:
    """Train `model` in place, resuming from `work`, and return it frozen; a step's randomness is keyed by its index."""
    file = work / f"{plan.name}.ckpt"
    average = _Average(model, plan.ema)
    optimizer = torch.optim.AdamW(_trainable(model), lr=plan.lr, weight_decay=plan.weight_decay, fused=True)
    step = _restore(file, model, average, optimizer)
    progress, saved = _Progress(plan, step), time.time()
    while step < plan.steps:
        for group in optimizer.param_groups:
            group["lr"] = plan.lr * _decay(step, plan)
        value = loss(torch.Generator().manual_seed(zlib.crc32(f"{plan.name}/{seed}/{step}".encode())))
        optimizer.zero_grad()
        value.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        average.update(model, step)
        step += 1
        progress.update(step, value.item())
        if time.time() - saved > 60 or step == plan.steps:
            _save(file, model, average, optimizer, step)
            saved = time.time()
    average.copy_to(model)
    return model.eval().requires_grad_(False)


class _Progress:
    """Prints the running mean of the loss, the pace and the minutes left every 200 steps."""

    def __init__(self, plan: Plan, first: int) -> None:
        self.plan, self.first, self.started, self.loss = plan, first, time.time(), 0.0

    def update(self, step: int, loss: float) -> None:
        self.loss = loss if step == self.first + 1 else 0.98 * self.loss + 0.02 * loss
        if step % 200:
            return
        pace = (time.time() - self.started) / (step - self.first)
        left = pace * (self.plan.steps - step) / 60
        line = f"{self.plan.name} {step}/{self.plan.steps} loss {self.loss:.4f}"
        print(f"{line} {pace * 1e3:.0f} ms/step, {left:.0f} min left", flush=True)


def _decay(step: int, plan: Plan) -> float:
    """Return the factor of the learning rate, which warms up, holds, and falls to 2 % over the last third."""
    warm = min(1.0, (step + 1) / plan.warmup)
    late = max(0.0, 3 * step / plan.steps - 2)
    return warm * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * late)))


class _Average:
    """Keeps the exponential moving average of the trainable weights."""

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self.weights = [p.detach().clone() for p in _trainable(model)] if decay else []

    @torch.no_grad()
    def update(self, model: nn.Module, step: int) -> None:
        if self.decay:
            decay = min(self.decay, (1 + step) / (10 + step))
            torch._foreach_lerp_(self.weights, [p.detach() for p in _trainable(model)], 1 - decay)

    @torch.no_grad()
    def copy_to(self, model: nn.Module) -> None:
        if self.decay:
            for weight, average in zip(_trainable(model), self.weights, strict=True):
                weight.copy_(average)


def _trainable(model: nn.Module) -> list[nn.Parameter]:
    return [p for p in model.parameters() if p.requires_grad]


def _save(file: Path, model: nn.Module, average: _Average, optimizer: torch.optim.Optimizer, step: int) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    state = {"model": model.state_dict(), "average": average.weights, "optimizer": optimizer.state_dict(), "step": step}
    with replacing(file) as unfinished:
        torch.save(state, unfinished)


def _restore(file: Path, model: nn.Module, average: _Average, optimizer: torch.optim.Optimizer) -> int:
    if not file.exists():
        return 0
    state = torch.load(file, weights_only=True)
    model.load_state_dict(state["model"])
    optimizer.load_state_dict(state["optimizer"])
    average.weights = state["average"]
    return state["step"]
