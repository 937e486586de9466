"""Where training is logged: metrics.csv always, and W&B, online where an account is configured, else offline."""

import csv
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import Logger, WandbLogger
from lightning.pytorch.utilities import rank_zero_only
from omegaconf import DictConfig

from rdt.wandb import of_config


class Metrics(Logger):
    """`metrics.csv` in the output folder: one row per iteration, whole at any moment, continued by a resumed run."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.file = folder / "metrics.csv"
        self.rows: dict[int, dict[str, Any]] = {}
        if self.file.exists():
            with self.file.open(encoding="utf-8", newline="") as stream:
                rows = list(csv.DictReader(stream))
            self.rows = {int(row["iteration"]): {k: v for k, v in row.items() if v} for row in rows}

    name, version = "metrics", ""

    @rank_zero_only
    def log_hyperparams(self, *_: Any, **__: Any) -> None:
        """The config has a file of its own."""

    @rank_zero_only
    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        self.rows.setdefault(step or 0, {"iteration": step or 0}).update(metrics)
        if len(self.rows) % 10 == 0:
            self.save()

    def forget(self, first: int) -> None:
        """Drop rows that a resumed run is about to write again."""
        self.rows = {step: row for step, row in self.rows.items() if step < first}

    @rank_zero_only
    def save(self) -> None:
        columns = dict.fromkeys(name for row in self.rows.values() for name in row if name != "epoch")
        temporary = self.file.with_suffix(".tmp")
        with temporary.open("w", encoding="utf-8", newline="") as stream:
            writer = csv.DictWriter(stream, list(columns), extrasaction="ignore")
            writer.writeheader()
            writer.writerows(row for _, row in sorted(self.rows.items()))
        temporary.replace(self.file)

    @rank_zero_only
    def finalize(self, status: str) -> None:
        self.save()


def loggers(cfg: DictConfig, out: Path) -> list[Logger]:
    """The run's loggers; the run's W&B id is kept in the output folder, so that a resumed run goes on in it."""
    found: list[Logger] = [Metrics(out)]
    if cfg.logger.wandb is not None and int(os.environ.get("RANK", 0)) == 0:
        found.append(Board(experiment=of_config(cfg, out, "train")))
    return found


class Board(WandbLogger):
    """W&B with iterations on the x axis of everything."""

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        values = {name: value for name, value in metrics.items() if name != "epoch"}
        self.experiment.log(values if step is None else values | {"iteration": step})
