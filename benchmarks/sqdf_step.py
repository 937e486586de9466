"""Compare SQDF's iteration with the official recipe, rewritten here, in seconds and in resident parameters.

`python benchmarks/sqdf_step.py [cycles]` runs both in one process, for cycles of four iterations, and prints the
ratios. The official recipe keeps three networks, rolls out for every update and runs the look-ahead on a doubled batch,
half of whose output it discards. rdt has one network with three views, one pass per look-ahead, and k gradient samples
per stored trajectory.
"""

import copy
import statistics
import sys
import time

import lightning as L
import torch
from omegaconf import DictConfig
from shared.trainer import fit

from rdt.config.compose import composed
from rdt.policy import Policy
from rdt.training.experiment import Experiment
from rdt.training.silence import silence_libraries

COMMON = ["batch_size=16", "method.capacity=256", "model.sampling.num_steps=15", "evaluation.every=0", "logger=none"]
CYCLE = 4  # iterations between two rollouts, at most


def config(replay_ratio: int, iterations: int) -> DictConfig:
    """Return the config of SQDF on the embedded world at a replay ratio."""
    return composed("config", *COMMON, f"method.replay_ratio={replay_ratio}", f"iterations={iterations}")


def as_published(policy: Policy) -> Policy:
    """Give the policy a network per view, and a look-ahead that discards half of a doubled batch; return it."""
    base, consistency = copy.deepcopy(policy), copy.deepcopy(policy)

    def doubled(x, t, cond):
        both = consistency.consistency(torch.cat([x, x]), torch.cat([t, t]), cond.cat(cond, cond))
        return both.chunk(2)[1]

    policy.base, policy.consistency = base.base, doubled
    policy.copies = torch.nn.ModuleList([base.network, consistency.network])
    return policy


class Stopwatch(L.Callback):
    """Records the seconds of every iteration."""

    def __init__(self) -> None:
        self.seconds: list[float] = []

    def on_train_batch_start(self, *_) -> None:
        self.started = time.perf_counter()

    def on_train_batch_end(self, *_) -> None:
        self.seconds.append(time.perf_counter() - self.started)


def measure(replay_ratio: int, published: bool, iterations: int) -> tuple[float, int]:
    """Return the seconds per iteration, a median over all cycles but the first, and the bytes of network parameters."""
    experiment = Experiment(config(replay_ratio, iterations))
    if published:
        as_published(experiment.policy)
    watch = Stopwatch()
    fit(experiment, watch)
    networks = [experiment.policy.network, *(experiment.policy.copies if published else [])]
    size = sum(p.numel() * p.element_size() for network in networks for p in network.parameters())
    cycles = [sum(watch.seconds[k : k + CYCLE]) / CYCLE for k in range(CYCLE, iterations, CYCLE)]
    return statistics.median(cycles), size


def main() -> None:
    """Print the ratios."""
    silence_libraries()
    iterations = CYCLE * (int(sys.argv[1]) if len(sys.argv) > 1 else 4)
    seconds, size = measure(1, True, iterations)
    print(f"as published, k = 1: {seconds:.3f} s per 16 gradient samples, {size / 1e6:.1f} MB of network parameters")
    for k in (1, 4):
        ours, held = measure(k, False, iterations)
        ratios = f"{seconds / ours:.2f} times faster; {held / size:.2f} of the network parameters"
        print(f"rdt, k = {k}: {ours:.3f} s, {ratios}")


if __name__ == "__main__":
    main()
