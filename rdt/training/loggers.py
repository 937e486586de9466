"""Where training is logged: metrics.csv always, and W&B, online where an account is configured, else offline."""

import csv
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import Logger, WandbLogger
from lightning.pytorch.utilities import rank_zero_only
from omegaconf import DictConfig

from rdt.result import Point, Result, read
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


GRIDS = 24  # shown at most; the rest stays in the folder


def conclude(loggers: Iterable[Logger], cfg: DictConfig, out: Path) -> None:
    """Log what the output folder holds and finish the W&B run, so that the next job of this process has its own."""
    result = read(out)
    for logger in loggers:
        if isinstance(logger, WandbLogger):
            run = logger.experiment
            show(run, out, result.own)
            run.log_artifact(artifact(cfg, result, out / "lora"))
            run.finish()


@contextmanager
def evaluation(cfg: DictConfig, out: Path) -> Iterator[Any]:
    """A W&B run of job type eval, in the group of the run that was trained; None where that logged to none.

    One that fails is marked so in W&B, whose own `with` would print the traceback of what is one line here.
    """
    if cfg.logger.wandb is None:
        yield None
        return
    run = of_config(cfg, out, "eval")
    try:
        yield run
    except BaseException:
        run.finish(exit_code=1)
        raise
    run.finish()


def show(run: Any, out: Path, point: Point) -> None:
    """Scalars of that point, and the pictures and fronts of the whole record."""
    result = read(out)
    run.summary.update(scalars(result, point))
    run.log(pictures(out) | fronts(result) | {"iteration": result.iterations})


def scalars(result: Result, point: Point) -> dict[str, float]:
    """final/<score> of that point, its paired difference, base/<score>, compute/<cost>."""
    final, base = point.means(), result.base.means()
    cost = {key: value for key, value in result.compute.items() if isinstance(value, int | float)}
    values = {"final": final, "base": base, "compute": cost}
    values["difference"] = {name: final[name] - base[name] for name in final if name in base}
    return {f"{group}/{name}": value for group, scores in values.items() for name, value in scores.items()}


def pictures(out: Path) -> dict[str, Any]:
    """The sample grids of base and points, at equal noise, and the report's front."""
    import wandb

    from rdt.report.compare import compare
    from rdt.report.figure import draw
    from rdt.report.grids import grids_of
    from rdt.report.read import read_run

    comparisons = compare([read_run(out)])
    grids = grids_of(comparisons[0], most=GRIDS)
    draw(comparisons, grids[:4], out / "front.png")
    samples = {f"samples/{grid.path.stem}": wandb.Image(str(grid.path), caption=grid.title) for grid in grids}
    return samples | {"front/picture": wandb.Image(str(out / "front.png"))}


def fronts(result: Result) -> dict[str, Any]:
    """The base and the points as a table, and as a chart of every reward against diversity."""
    import wandb

    points = [result.base, *result.points]
    scores = list(result.own.scores)
    table = wandb.Table(["point", *scores], [[one.label, *row(one, scores)] for one in points])
    across = [name for name in scores if name.startswith("diversity/")]
    across.sort(key=lambda name: name != "diversity/entropy")
    charts = {
        f"front/{up.rpartition('/')[2]}": wandb.plot.scatter(table, across[0], up, title=f"{up} against {across[0]}")
        for up in scores if across and up.startswith("reward/")
    }  # fmt: skip
    return {"front/table": table} | charts


def row(one: Point, scores: list[str]) -> list[float | None]:
    """The means of a point by name, None where it has none."""
    found = one.means()
    return [found.get(name) for name in scores]


def artifact(cfg: DictConfig, result: Result, folder: Path) -> Any:
    """The LoRA folder, with what it is and what it scores."""
    import wandb

    name = re.sub(r"[^\w.-]+", "-", f"lora-{result.method}-{result.reward}-{result.model}-s{result.seed}")
    point = result.own
    metadata = {key: getattr(result, key) for key in ("method", "reward", "model", "seed", "iterations")} | {
        "base_model": cfg.model.policy.source,
        "rank": cfg.model.lora.rank,
        "alpha": cfg.model.lora.alpha,
        "point": point.means() | {"guidance": point.label},
    }
    made = wandb.Artifact(name, type="model", metadata=metadata)
    for file in sorted(folder.iterdir()):  # add_dir would say so on the terminal
        made.add_file(str(file))
    return made
