"""The cost of annealed guidance in units of plain sampling, in one process.

`python benchmarks/aig.py [images]`
"""

import statistics
import sys
import time
from pathlib import Path

from hydra import compose, initialize_config_dir

from rdt import guidance
from rdt.experiment import Experiment
from rdt.policy import Denoiser
from rdt.rollout import Noise, rollout
from rdt.worker import quiet

CONF = str(Path(__file__).resolve().parents[1] / "conf")
SCHEDULES = {
    "power 2": guidance.power(2), "linear": guidance.linear(), "constant 0.5": guidance.constant(0.5),
    "step 0.5": guidance.step(0.5),
}  # fmt: skip


def main() -> None:
    """Print ratios of seconds and of network passes, the median of five interleaved rounds."""
    quiet()
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 32
    with initialize_config_dir(CONF, version_base="1.3"):
        experiment = Experiment(compose("config", ["logger=none"]))
    policy, times = experiment.policy, experiment.policy.process.times(experiment.sampling.num_steps)
    settings = {"plain": policy.tuned} | {
        name: guidance.anneal(policy.base, policy.tuned, schedule, times) for name, schedule in SCHEDULES.items()
    }
    measured = [{name: sample(experiment, view, count) for name, view in settings.items()} for _ in range(5)]
    for name in settings:
        seconds = statistics.median(round_[name][0] / round_["plain"][0] for round_ in measured)
        passes = measured[0][name][1] / measured[0]["plain"][1]
        print(f"{name:<14} {seconds:5.2f} x the seconds, {passes:5.2f} x the network passes of plain sampling")


def sample(experiment: Experiment, view: Denoiser, count: int) -> tuple[float, int]:
    """Seconds and network passes of sampling `count` images."""
    policy = experiment.policy
    before, started = policy.passes, time.perf_counter()
    noise = Noise(seed=0, purpose="benchmark", indices=range(count), shape=policy.latent_shape, device=policy.device)
    cond = policy.encode(["a circle"] * count)
    rollout(experiment.method.guided(view), policy.process, cond, noise, experiment.sampling.num_steps, 1.0)
    return time.perf_counter() - started, policy.passes - before


if __name__ == "__main__":
    main()
