"""What a run shows on W&B: final scalars, sample grids, its front, and once trained the adapter as an artifact."""

import json
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import Logger, WandbLogger
from omegaconf import DictConfig

from rdt import tracking
from rdt.points import Point, means, own

GRIDS = 24  # shown at most; the rest stays in the folder


def conclude(loggers: Iterable[Logger], cfg: DictConfig, out: Path) -> None:
    """Log what the output folder holds and finish the W&B run, so that the next job of this process has its own."""
    result = json.loads((out / "result.json").read_text(encoding="utf-8"))
    for logger in loggers:
        if isinstance(logger, WandbLogger):
            run = logger.experiment
            show(run, out, own(result["points"]))
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
    run = tracking.of_config(cfg, out, "eval")
    try:
        yield run
    except BaseException:
        run.finish(exit_code=1)
        raise
    run.finish()


def show(run: Any, out: Path, point: Point) -> None:
    """Scalars of that point, and the pictures and fronts of the whole record."""
    result = json.loads((out / "result.json").read_text(encoding="utf-8"))
    run.summary.update(scalars(result, point))
    run.log(pictures(out) | fronts(result) | {"iteration": result["iterations"]})


def scalars(result: dict[str, Any], point: Point) -> dict[str, float]:
    """final/<score> of that point, its paired difference, base/<score>, compute/<cost>."""
    final, base = means(point), means(result["base"])
    cost = {key: value for key, value in result["compute"].items() if isinstance(value, int | float)}
    values = {"final": final, "base": base, "compute": cost}
    values["difference"] = {name: final[name] - base[name] for name in final if name in base}
    return {f"{group}/{name}": value for group, scores in values.items() for name, value in scores.items()}


def pictures(out: Path) -> dict[str, Any]:
    """The sample grids of base and points, at equal noise, and the report's front."""
    import wandb

    from rdt.report.figure import draw
    from rdt.report.folders import read_run
    from rdt.report.gather import compare
    from rdt.report.grids import grids_of

    comparisons = compare([read_run(out)])
    grids = grids_of(comparisons[0], most=GRIDS)
    draw(comparisons, grids[:4], out / "front.png")
    samples = {f"samples/{grid.path.stem}": wandb.Image(str(grid.path), caption=grid.title) for grid in grids}
    return samples | {"front/picture": wandb.Image(str(out / "front.png"))}


def fronts(result: dict[str, Any]) -> dict[str, Any]:
    """The base and the points as a table, and as a chart of every reward against diversity."""
    import wandb

    points = [result["base"], *result["points"]]
    scores = list(means(own(result["points"])))
    table = wandb.Table(["point", *scores], [[one["label"], *row(one, scores)] for one in points])
    across = [name for name in scores if name.startswith("diversity/")]
    across.sort(key=lambda name: name != "diversity/entropy")
    charts = {
        f"front/{up.rpartition('/')[2]}": wandb.plot.scatter(table, across[0], up, title=f"{up} against {across[0]}")
        for up in scores if across and up.startswith("reward/")
    }  # fmt: skip
    return {"front/table": table} | charts


def row(one: Point, scores: list[str]) -> list[float | None]:
    """The means of a point by name, None where it has none."""
    found = means(one)
    return [found.get(name) for name in scores]


def artifact(cfg: DictConfig, result: dict[str, Any], folder: Path) -> Any:
    """The LoRA folder, with what it is and what it scores."""
    import wandb

    name = re.sub(r"[^\w.-]+", "-", f"lora-{result['method']}-{result['reward']}-{result['model']}-s{result['seed']}")
    point = own(result["points"])
    metadata = {key: result[key] for key in ("method", "reward", "model", "seed", "iterations")} | {
        "base_model": cfg.model.policy.source,
        "rank": cfg.model.lora.rank,
        "alpha": cfg.model.lora.alpha,
        "point": means(point) | {"guidance": point["label"]},
    }
    made = wandb.Artifact(name, type="model", metadata=metadata)
    for file in sorted(folder.iterdir()):  # add_dir would say so on the terminal
        made.add_file(str(file))
    return made
