"""Measure the cost of annealed guidance relative to plain sampling, of a sweep, and of base and tuned in one call.

`python benchmarks/aig.py [images]` prints ratios of seconds, which are medians over interleaved rounds in one process,
and exact ratios of network passes.
"""

import statistics
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch

from rdt import guidance
from rdt.config.compose import composed
from rdt.policy import Denoiser
from rdt.rollout import sampled
from rdt.training.experiment import Experiment
from rdt.training.silence import silence_libraries

aig = guidance.AnnealedImportance
SCHEDULES = {
    "power 2": aig("power", power=2), "linear": aig("linear"), "constant 0.5": aig("constant", constant=0.5),
    "step 0.5": aig("step", fraction=0.5),
}  # fmt: skip
TARGETS = {"power 2": 2.05, "step 0.5": 1.02, "six steps": 3.5}
SWEEPS = {
    "three powers, three steps": [
        *(aig("power", power=p) for p in (1, 2, 4)), *(aig("step", fraction=f) for f in (0.25, 0.5, 0.75)),
    ],
    "six steps": [aig("step", fraction=k / 10) for k in range(3, 9)],
}  # fmt: skip
ROUNDS, ROWS = 3, (4, 16, 24, 96)


@dataclass(frozen=True)
class Cost:
    """Holds the seconds and the network passes of one piece of work."""

    seconds: float
    passes: int


def main() -> None:
    """Print the ratios."""
    silence_libraries()
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 16
    experiment = Experiment(composed("config", "logger=none"))
    experiment.method.to("cuda" if torch.cuda.is_available() else "cpu")
    sample(experiment, experiment.policy.tuned, count)  # the first call is slow and is not measured
    plain = {"plain sampling": lambda: sample(experiment, experiment.policy.tuned, count)}
    schedules = {name: lambda s=schedule: sample_along(experiment, s, count) for name, schedule in SCHEDULES.items()}
    report(experiment, plain | schedules, ROUNDS)
    for name, sweep in SWEEPS.items():
        works = {
            name: lambda s=sweep: sample_together(experiment, s, count),
            "- the same, apart": lambda s=sweep: sample_apart(experiment, s, count),
        }
        report(experiment, plain | works, ROUNDS)
    for rows in ROWS:
        report(experiment, paired(experiment, rows), 5 * ROUNDS)


def report(experiment: Experiment, works: dict[str, Callable[[], object]], rounds: int) -> None:
    """Print the cost of each piece of work relative to the first."""
    measured = [{name: cost(experiment, work) for name, work in works.items()} for _ in range(rounds)]
    first, *others = works
    for name in others:
        seconds = statistics.median(round_[name].seconds / round_[first].seconds for round_ in measured)
        passes = measured[0][name].passes / measured[0][first].passes
        target = f", target {TARGETS[name]}" if name in TARGETS else ""
        print(f"{name:<26} {seconds:5.2f} x the seconds, {passes:5.2f} x the network passes of {first}{target}")


def cost(experiment: Experiment, work: Callable[[], object]) -> Cost:
    """Return the seconds and the network passes that a piece of work takes."""
    wait, before, started = experiment.policy.device.type == "cuda", experiment.policy.passes, time.perf_counter()
    work()
    if wait:
        torch.cuda.synchronize()
    return Cost(time.perf_counter() - started, experiment.policy.passes - before)


def sample(experiment: Experiment, view: Denoiser, count: int) -> None:
    """Sample `count` images from a view under classifier-free guidance."""
    roll(experiment, experiment.method.guided(view), count)


def sample_along(experiment: Experiment, schedule: guidance.Guidance, count: int) -> None:
    """Sample `count` images along one annealing schedule."""
    roll(experiment, next(points(experiment, [schedule])), count)


def sample_together(experiment: Experiment, schedules: list[guidance.Guidance], count: int) -> None:
    """Sample along every schedule with one cache of the base's outputs, as an evaluation of a curve does."""
    for view in list(points(experiment, schedules)):
        roll(experiment, view, count)


def sample_apart(experiment: Experiment, schedules: list[guidance.Guidance], count: int) -> None:
    """Sample along every schedule without a shared cache, as separate evaluations do."""
    for schedule in schedules:
        sample_along(experiment, schedule, count)


def points(experiment: Experiment, schedules: list[guidance.Guidance]) -> Iterable[Denoiser]:
    """Return one denoiser per schedule; all of them share a cache of the base's outputs."""
    base = guidance.remembered(experiment.policy.base)
    context = guidance.Context(experiment.policy, base, experiment.method.guided, experiment.sampling.num_steps)
    return (schedule(context) for schedule in schedules)


def roll(experiment: Experiment, view: Denoiser, count: int) -> None:
    noise = experiment.policy.noise(0, "benchmark", range(count))
    sampled(experiment.policy, view, ["a circle"] * count, noise, experiment.sampling)


def paired(experiment: Experiment, rows: int) -> dict[str, Callable[[], object]]:
    """Return two ways to call base and tuned at one state: two calls, and one call of a doubled batch."""
    policy = experiment.policy
    x, t = torch.randn(rows, *policy.latent_shape, device=policy.device), policy.process.times(15)[3]
    cond = policy.encode(["a circle"] * rows)
    two = torch.no_grad()(lambda: (policy.base(x, t, cond), policy.tuned(x, t, cond)))
    return {"two calls": two, f"a pair of {rows} rows": torch.no_grad()(lambda: policy.pair(x, t, cond))}


if __name__ == "__main__":
    main()
