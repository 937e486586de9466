"""What a finished run shows on W&B: final scalars, sample grids, its front, and the adapter as an artifact."""

import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import Logger, WandbLogger
from omegaconf import DictConfig

from rdt.points import Point, means


def conclude(loggers: Iterable[Logger], cfg: DictConfig, out: Path) -> None:
    """Log what the output folder holds and finish the W&B run, so that the next job of this process has its own."""
    result = json.loads((out / "result.json").read_text(encoding="utf-8"))
    for logger in loggers:
        if isinstance(logger, WandbLogger):
            run = logger.experiment
            run.summary.update(scalars(result))
            run.log(pictures(out) | fronts(result) | {"iteration": result["iterations"]})
            run.log_artifact(artifact(cfg, result, out / "lora"))
            run.finish()


def scalars(result: dict[str, Any]) -> dict[str, float]:
    """final/<score> of the run's point, its paired difference, base/<score>, compute/<cost>."""
    final, base = means(result["points"][-1]), means(result["base"])
    cost = {key: value for key, value in result["compute"].items() if isinstance(value, int | float)}
    values = {"final": final, "base": base, "compute": cost}
    values["difference"] = {name: final[name] - base[name] for name in final if name in base}
    return {f"{group}/{name}": value for group, scores in values.items() for name, value in scores.items()}


def pictures(out: Path) -> dict[str, Any]:
    """The sample grids, at equal noise, and the report's front."""
    import wandb

    from rdt.report.figure import draw
    from rdt.report.folders import read_run
    from rdt.report.gather import compare
    from rdt.report.grids import grids_of

    comparisons = compare([read_run(out)])
    draw(comparisons, grids_of(comparisons[0], most=4), out / "front.png")
    files = {"samples/base": "samples/base.png", "samples/tuned": "samples/tuned.png", "front/picture": "front.png"}
    return {key: wandb.Image(str(out / name)) for key, name in files.items()}


def fronts(result: dict[str, Any]) -> dict[str, Any]:
    """The base and the points as a table, and as a chart of every reward against diversity."""
    import wandb

    points = [result["base"], *result["points"]]
    scores = list(means(points[-1]))
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
    last = result["points"][-1]
    metadata = {key: result[key] for key in ("method", "reward", "model", "seed", "iterations")} | {
        "base_model": cfg.model.policy.source,
        "rank": cfg.model.lora.rank,
        "alpha": cfg.model.lora.alpha,
        "point": means(last) | {"guidance": last["label"]},
    }
    made = wandb.Artifact(name, type="model", metadata=metadata)
    for file in sorted(folder.iterdir()):  # add_dir would say so on the terminal
        made.add_file(str(file))
    return made
