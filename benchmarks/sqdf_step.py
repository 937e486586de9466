"""SQDF's iteration against a re-statement of the official recipe, in one process: seconds and resident parameters.

The official recipe keeps three networks, rolls out anew for every update and runs the look-ahead with a doubled batch
of which half is thrown away. Ours has one network with three views, one pass per look-ahead, and k gradient samples per
stored trajectory.
`python benchmarks/sqdf_step.py [cycles]`, of four iterations each
"""

import copy
import statistics
import sys
import time

import lightning as L
import torch
from omegaconf import DictConfig

from rdt.config.compose import composed
from rdt.policy import Policy
from rdt.training.experiment import Experiment
from rdt.training.launch import quiet

COMMON = ["batch_size=16", "method.capacity=256", "model.sampling.num_steps=15", "evaluation.every=0", "logger=none"]
CYCLE = 4  # iterations between two rollouts, at the most


def config(replay_ratio: int, iterations: int) -> DictConfig:
    """The embedded world's SQDF at a replay ratio."""
    return composed("config", *COMMON, f"method.replay_ratio={replay_ratio}", f"iterations={iterations}")


def as_published(policy: Policy) -> Policy:
    """The same policy with a network per view, and a look-ahead whose batch is doubled and halved again."""
    base, consistency = copy.deepcopy(policy), copy.deepcopy(policy)

    def doubled(x, t, cond):
        both = consistency.consistency(torch.cat([x, x]), torch.cat([t, t]), cond.cat(cond, cond))
        return both.chunk(2)[1]

    policy.base, policy.consistency = base.base, doubled
    policy.copies = torch.nn.ModuleList([base.network, consistency.network])
    return policy


class Stopwatch(L.Callback):
    """Seconds of every iteration."""

    def __init__(self) -> None:
        self.seconds: list[float] = []

    def on_train_batch_start(self, *_) -> None:
        self.started = time.perf_counter()

    def on_train_batch_end(self, *_) -> None:
        self.seconds.append(time.perf_counter() - self.started)


def measure(replay_ratio: int, published: bool, iterations: int) -> tuple[float, int]:
    """Seconds per iteration, the median over cycles after one to warm up, and bytes of resident network parameters."""
    experiment = Experiment(config(replay_ratio, iterations))
    if published:
        as_published(experiment.policy)
    watch = Stopwatch()
    L.Trainer(
        accelerator="auto", devices=1, logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, max_epochs=1, callbacks=[watch],
    ).fit(experiment.method, experiment.data)  # fmt: skip
    networks = [experiment.policy.network, *getattr(experiment.policy, "copies", [])]
    held = sum(p.numel() * p.element_size() for network in networks for p in network.parameters())
    cycles = [sum(watch.seconds[k : k + CYCLE]) / CYCLE for k in range(CYCLE, iterations, CYCLE)]
    return statistics.median(cycles), held


def main() -> None:
    """Print the ratios."""
    quiet()
    iterations = CYCLE * (int(sys.argv[1]) if len(sys.argv) > 1 else 4)
    seconds, held = measure(1, True, iterations)
    print(f"as published, k = 1: {seconds:.3f} s per 16 gradient samples, {held / 1e6:.1f} MB of network parameters")
    for k in (1, 4):
        ours, own = measure(k, False, iterations)
        print(
            f"rdt, k = {k}: {ours:.3f} s, {seconds / ours:.2f} times faster; {own / held:.2f} of the network parameters"
        )


if __name__ == "__main__":
    main()
