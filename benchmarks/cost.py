"""Count the network passes of one iteration of every method at the embedded world's settings.

`python benchmarks/cost.py [method ..]` prints the table and, if no method is named, writes benchmarks/results/cost.csv.
One process runs, so the counts are those of one device. They are means over a few iterations, since AlignProp and ReFL
draw how many steps they differentiate, and policy gradients share a rollout between several updates.
"""

import csv
import sys
from pathlib import Path

from omegaconf import DictConfig
from shared.trainer import fit

from rdt.config.compose import composed
from rdt.training.experiment import Experiment
from rdt.training.silence import silence_libraries

ROOT = Path(__file__).resolve().parents[1]
RESULT = ROOT / "benchmarks/results/cost.csv"
MODELS = ("shapes", "shapes_flow")
ITERATIONS = 8  # at least; rounded to whole cycles of methods that do not sample in every iteration
OWN = {"gardo": ("reward=mixture", "reward.parts.jpeg.weight=0")}  # its gate compares with a part of weight 0
HEAD = ("method", "model", "batch", "images", "forward", "backward", "passes")


def config(method: str, model: str, *more: str) -> DictConfig:
    """Return the config of a run of the method at the model's settings."""
    overrides = [f"method={method}", f"model={model}", "logger=none", "evaluation.every=0", *OWN.get(method, ()), *more]
    return composed("config", *overrides)


def cycle(cfg: DictConfig) -> int:
    """Return the number of updates from one rollout to the next."""
    return cfg.method.get("updates_per_round", cfg.method.get("updates_per_rollout", 1))


def row(method: str, model: str) -> dict[str, str]:
    """Return the row of the table: images, and forward, backward and all passes, as means per iteration."""
    every = cycle(config(method, model))
    iterations = every * max(1, ITERATIONS // every)
    experiment = Experiment(config(method, model, f"iterations={iterations}"))
    fit(experiment)
    policy = experiment.policy
    counts = (experiment.method.images, policy.passes, policy.backward_passes, policy.passes + policy.backward_passes)
    means = [f"{count / iterations:.4g}" for count in counts]
    return dict(zip(HEAD, [method, model, str(experiment.cfg.batch_size), *means], strict=True))


def main() -> None:
    """Print the table, and write it if it has every method."""
    silence_libraries()
    every = sorted(file.stem for file in (ROOT / "conf/method").glob("*.yaml"))
    wanted, rows = sys.argv[1:] or every, []
    print(",".join(HEAD))
    for method in wanted:
        for model in MODELS:
            rows.append(row(method, model))
            print(",".join(rows[-1].values()), flush=True)
    if wanted == every:
        RESULT.parent.mkdir(exist_ok=True)
        with RESULT.open("w", encoding="utf-8", newline="") as stream:
            writer = csv.DictWriter(stream, HEAD, lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)


if __name__ == "__main__":
    main()
