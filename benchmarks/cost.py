"""Network passes of one iteration of every method at the embedded world's settings: benchmarks/results/cost.csv.

One process, so that the counts are those of one device; a few iterations are averaged, since AlignProp and ReFL draw
how far they go, and policy gradients roll out anew for every few updates only.
`python benchmarks/cost.py [method ..]`
"""

import csv
import sys
from pathlib import Path

import lightning as L
from omegaconf import DictConfig

from rdt.config.compose import composed
from rdt.training.experiment import Experiment
from rdt.training.launch import quiet

ROOT = Path(__file__).resolve().parents[1]
RESULT = ROOT / "benchmarks/results/cost.csv"
MODELS = ("shapes", "shapes_flow")
ITERATIONS = 8  # at least, and whole cycles of those who sample seldom
HEAD = ("method", "model", "batch", "images", "forward", "backward", "passes")


def config(method: str, model: str, *more: str) -> DictConfig:
    """A run of the method at the model's settings."""
    overrides = [f"method={method}", f"model={model}", "logger=none", "evaluation.every=0", *more]
    return composed("config", *overrides)


def cycle(cfg: DictConfig) -> int:
    """Updates between one sampling and the next of the same kind."""
    return cfg.method.get("updates_per_round", cfg.method.get("updates_per_rollout", 1))


def row(method: str, model: str) -> dict[str, str]:
    """Means per iteration, in images and passes."""
    every = cycle(config(method, model))
    iterations = every * max(1, ITERATIONS // every)
    experiment = Experiment(config(method, model, f"iterations={iterations}"))
    L.Trainer(
        accelerator="auto", devices=1, logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, max_epochs=1,
    ).fit(experiment.method, experiment.data)  # fmt: skip
    policy = experiment.policy
    counts = (experiment.method.images, policy.passes, policy.backward_passes, policy.passes + policy.backward_passes)
    means = [f"{count / iterations:.4g}" for count in counts]
    return dict(zip(HEAD, [method, model, str(experiment.cfg.batch_size), *means], strict=True))


def main() -> None:
    """Print the table; written only where it is whole."""
    quiet()
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
