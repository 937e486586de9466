"""What is logged while training: metrics.csv always, and W&B unless another logger was chosen."""

import csv
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import Logger, WandbLogger
from lightning.pytorch.utilities import rank_zero_only
from omegaconf import DictConfig

from rdt import files
from rdt.wandb import start_from_config

SAVED_EVERY = 10  # rows of metrics.csv


class Metrics(Logger):
    """Writes `metrics.csv`: one row per iteration, complete whenever it is read, and continued by a resumed run."""

    name, version = "metrics", ""  # Lightning requires both

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.file = folder / "metrics.csv"
        self.rows: dict[int, dict[str, Any]] = {}  # by iteration
        if self.file.exists():
            with self.file.open(encoding="utf-8", newline="") as stream:
                rows = list(csv.DictReader(stream))
            self.rows = {int(row["iteration"]): {k: v for k, v in row.items() if v} for row in rows}

    @rank_zero_only
    def log_hyperparams(self, *_: Any, **__: Any) -> None:
        """Do nothing: `config.yaml` holds the hyperparameters."""

    @rank_zero_only
    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        self.rows.setdefault(step or 0, {"iteration": step or 0}).update(metrics)
        if len(self.rows) % SAVED_EVERY == 0:
            self.save()

    def drop_from(self, iteration: int) -> None:
        """Drop the rows from `iteration` on, which a resumed run is about to write again."""
        self.rows = {step: row for step, row in self.rows.items() if step < iteration}

    @rank_zero_only
    def save(self) -> None:
        columns = dict.fromkeys(name for row in self.rows.values() for name in row if name != "epoch")
        with files.replacing(self.file) as unfinished, unfinished.open("w", encoding="utf-8", newline="") as stream:
            writer = csv.DictWriter(stream, list(columns), extrasaction="ignore")
            writer.writeheader()
            writer.writerows(row for _, row in sorted(self.rows.items()))

    @rank_zero_only
    def finalize(self, status: str) -> None:
        self.save()


class Board(WandbLogger):
    """A W&B logger that puts the iteration on the x axis of every chart."""

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        values = {name: value for name, value in metrics.items() if name != "epoch"}
        self.experiment.log(values if step is None else values | {"iteration": step})


def loggers(cfg: DictConfig, out: Path) -> list[Logger]:
    """Return the run's loggers; a resumed run continues its W&B run, whose id is kept in the output folder."""
    found: list[Logger] = [Metrics(out)]
    if cfg.logger.wandb is not None and int(os.environ.get("RANK", 0)) == 0:
        found.append(Board(experiment=start_from_config(cfg, out, "train")))
    return found
