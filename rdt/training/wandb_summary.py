"""What a finished run shows on W&B: its final scores, sample grids and front, and the adapter as an artifact."""

import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import Logger, WandbLogger
from omegaconf import DictConfig

from rdt.report.read import read_run
from rdt.result import Point, Result, read
from rdt.wandb import start_from_config

MOST_GRIDS = 24  # sample grids that are uploaded; the others stay in the run's folder
MOST_DRAWN = 4  # sample grids in the picture of the front


def conclude(loggers: Iterable[Logger], cfg: DictConfig, out: Path) -> None:
    """Show what the output folder holds and finish the W&B run, so that the next job of this process starts its own."""
    result = read(out)
    for logger in loggers:
        if isinstance(logger, WandbLogger):
            run = logger.experiment
            show(run, out, result.tuned)
            run.log_artifact(artifact(cfg, result, out / "lora"))
            run.finish()


@contextmanager
def evaluation_run(cfg: DictConfig, out: Path) -> Iterator[Any]:
    """Yield a W&B run of job type "eval" in the group of the trained run, or None if that run did not log to W&B.

    It is marked as failed if the body raises. W&B's own `with` would also print a traceback where rdt prints one line.
    """
    if cfg.logger.wandb is None:
        yield None
        return
    run = start_from_config(cfg, out, "eval")
    try:
        yield run
    except BaseException:
        run.finish(exit_code=1)
        raise
    run.finish()


def show(run: Any, out: Path, point: Point) -> None:
    """Log the scalars of the point, and the pictures and fronts of the whole result."""
    result = read_run(out).result  # with the hacking gap
    known = next((one for one in result.points if one.guidance == point.guidance), point)
    run.summary.update(scalars(result, known))
    run.summary.update({f"role/{name}": role for name, role in result.roles().items()})
    run.log(pictures(out) | fronts(result) | {"iteration": result.iterations})


def scalars(result: Result, point: Point) -> dict[str, float]:
    """Return final/<score> of the point, base/<score>, difference/<score> and compute/<cost>."""
    final, base = point.means(), result.base.means()
    cost = {key: value for key, value in result.compute.items() if isinstance(value, int | float)}
    values = {"final": final, "base": base, "compute": cost}
    values["difference"] = {name: final[name] - base[name] for name in final if name in base}
    return {f"{group}/{name}": value for group, scores in values.items() for name, value in scores.items()}


def pictures(out: Path) -> dict[str, Any]:
    """Return the sample grids of the base and the points, at equal noise, and the picture of the front."""
    import wandb

    from rdt.report.compare import compare
    from rdt.report.figure import draw
    from rdt.report.grids import grids_of

    comparisons = compare([read_run(out)])
    grids = grids_of(comparisons[0], most=MOST_GRIDS)
    draw(comparisons, grids[:MOST_DRAWN], out / "front.png")
    samples = {f"samples/{grid.path.stem}": wandb.Image(str(grid.path), caption=grid.title) for grid in grids}
    return samples | {"front/picture": wandb.Image(str(out / "front.png"))}


def fronts(result: Result) -> dict[str, Any]:
    """Return a table of the base and the points, and a chart of every reward against the first measure of diversity."""
    import wandb

    points = [result.base, *result.points]
    names = list(result.tuned.scores)
    means = [point.means() for point in points]
    rows = [[point.label, *map(found.get, names)] for point, found in zip(points, means, strict=True)]
    table = wandb.Table(["point", *names], rows)
    diversity = next((name for name in names if name.startswith("diversity/")), None)
    rewards = [name for name in names if name.startswith("reward/")] if diversity else []
    charts = {
        f"front/{name.rpartition('/')[2]}": wandb.plot.scatter(
            table, diversity, name, title=f"{name} against {diversity}"
        )
        for name in rewards
    }
    return {"front/table": table} | charts


def artifact(cfg: DictConfig, result: Result, folder: Path) -> Any:
    """Return a model artifact with the files of the LoRA folder, what the adapter is and how it scores."""
    import wandb

    name = re.sub(r"[^\w.-]+", "-", f"lora-{result.method}-{result.reward}-{result.model}-s{result.seed}")
    metadata = {key: getattr(result, key) for key in ("method", "reward", "model", "seed", "iterations")} | {
        "base_model": cfg.model.policy.source,
        "rank": cfg.model.lora.rank,
        "alpha": cfg.model.lora.alpha,
        "rewards": result.roles(),
        "point": result.tuned.means() | {"guidance": result.tuned.label},
    }
    model = wandb.Artifact(name, type="model", metadata=metadata)
    for file in sorted(folder.iterdir()):  # add_dir prints a line about it
        model.add_file(str(file))
    return model
