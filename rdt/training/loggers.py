"""What is logged while training: metrics.csv always, and W&B, TensorBoard or Trackio as `logger` says."""

import csv
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import Logger, WandbLogger
from lightning.pytorch.utilities import rank_zero_only
from omegaconf import DictConfig
from PIL import Image

from rdt import files, ranks
from rdt.errors import UsageError
from rdt.training.boards import local_boards
from rdt.training.digests import METRICS
from rdt.wandb import start_from_config, wandb_image

SAVED_EVERY, PATIENCE = 10, 2.0  # rows of metrics.csv, and seconds, after which it is written again
Rows = dict[int, dict[str, Any]]  # by iteration


class Metrics(Logger):
    """Writes `metrics.csv`: one row per iteration, complete whenever it is read, and continued by a resumed run."""

    name, version = "metrics", ""  # Lightning requires both

    def __init__(self, folder: Path, rows: Rows) -> None:
        super().__init__()
        self.file, self.rows = folder / METRICS, dict(rows)
        self.saved = time.monotonic()

    @rank_zero_only
    def log_hyperparams(self, *_: Any, **__: Any) -> None:
        """Do nothing: `config.yaml` holds the hyperparameters."""

    @rank_zero_only
    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        self.rows.setdefault(step or 0, {"iteration": step or 0}).update(metrics)
        if len(self.rows) % SAVED_EVERY == 0 or time.monotonic() - self.saved > PATIENCE:
            self.save()

    def drop_from(self, iteration: int) -> None:
        """Drop the rows from `iteration` on, which a resumed run is about to write again."""
        self.rows = {step: row for step, row in self.rows.items() if step < iteration}

    @rank_zero_only
    def save(self) -> None:
        columns = dict.fromkeys(name for row in self.rows.values() for name in row if name != "epoch")
        self.file.parent.mkdir(parents=True, exist_ok=True)
        with files.replacing(self.file) as unfinished, unfinished.open("w", encoding="utf-8", newline="") as stream:
            writer = csv.DictWriter(stream, list(columns), extrasaction="ignore")
            writer.writeheader()
            writer.writerows(row for _, row in sorted(self.rows.items()))
        self.saved = time.monotonic()

    @rank_zero_only
    def finalize(self, status: str) -> None:
        self.save()


class Board(WandbLogger):
    """A W&B logger that puts the iteration on the x axis of every chart."""

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        values = {name: value for name, value in metrics.items() if name != "epoch"}
        self.experiment.log(values if step is None else values | {"iteration": step})

    @rank_zero_only
    def log_picture(self, name: str, picture: Image.Image, step: int) -> None:
        self.experiment.log({name: wandb_image(picture), "iteration": step})


def read_metrics(file: Path) -> Rows:
    """Return the rows of a metrics.csv; UsageError, naming the file, if it is damaged."""
    try:
        with file.open(encoding="utf-8", newline="") as stream:
            rows = list(csv.DictReader(stream, strict=True))
        return {int(row["iteration"]): {k: v for k, v in row.items() if v} for row in rows}
    except (ValueError, KeyError, TypeError, csv.Error) as error:
        raise UsageError(f"{file} is damaged: {type(error).__name__} {error}") from None


def kept_rows(out: Path, start: Path | None) -> Rows:
    """Return the rows that a run which starts at checkpoint file `start` continues; {} if it starts from nothing.

    A checkpoint in the run's own folder holds them; metrics.csv is compared with it, and a line says if it differs.
    """
    file = out / METRICS
    if start is None or (not file.is_file() and not _is_own(out, start)):
        return {}
    if not _is_own(out, start):
        return read_metrics(file)
    kept = read_metrics(start.with_name(METRICS))
    try:
        found = read_metrics(file)
    except (UsageError, OSError):
        found = {}
    if any(found.get(step) != row for step, row in kept.items()) and ranks.here().rank == 0:
        print(f"warning: {file} was damaged or missing; its rows are restored from {start.parent}", file=sys.stderr)
    return kept


def _is_own(out: Path, start: Path) -> bool:
    """Return whether a checkpoint file lies in the run's folder, with metrics beside it."""
    own = start.absolute().parents[1] == out.absolute() / "checkpoints"
    return own and start.with_name(METRICS).is_file()


def loggers(cfg: DictConfig, out: Path, rows: Rows) -> list[Logger]:
    """Return the run's loggers; a resumed run continues its W&B run, whose id is kept in the output folder."""
    found: list[Logger] = [Metrics(out, rows)]
    if cfg.logger.wandb is not None and ranks.here().rank == 0:
        found.append(Board(experiment=start_from_config(cfg, out, "train")))
    if ranks.here().rank == 0:
        found += local_boards(cfg, out, first=1 + max(rows, default=-1))
    return found
