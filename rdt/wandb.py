"""W&B: a run there, online where an account is configured, else offline.

What a run shows on W&B: final scalars, sample grids, its front, and once trained the adapter as an artifact.
"""

import json
import netrc
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import Logger, WandbLogger
from omegaconf import DictConfig, OmegaConf

from rdt.errors import UsageError
from rdt.result import Point, means, own

ID = "wandb_id"  # in the output folder of a run that logs to W&B


@dataclass(frozen=True)
class Job:
    """What a W&B run says of itself."""

    kind: str  # train, eval or pareto
    name: str
    tags: tuple[str, ...]
    config: Any
    id: str | None = None  # of the run to go on in; None: a new one


def start(wanted: Mapping[str, Any], out: Path, job: Job) -> Any:
    """A W&B run of that project, entity, group and mode, kept below out; UsageError where it is refused."""
    import wandb

    asked = wanted["mode"] or os.environ.get("WANDB_MODE")
    mode: Any = asked or ("online" if has_account() else "offline")
    if asked is None and mode == "offline":
        print("wandb: no account configured, logging offline; `wandb login` once, or `wandb sync` the folder later")
    try:
        return wandb.init(
            project=wanted["project"],
            entity=wanted["entity"],
            group=wanted["group"],
            job_type=job.kind,
            name=job.name,
            tags=job.tags,
            config=job.config,
            dir=out,
            id=job.id,
            mode=mode,
            resume="allow" if mode == "online" else None,
            reinit="finish_previous",  # a job of this process that broke off
            settings=wandb.Settings(silent=True),
        )
    except wandb.errors.Error as error:
        raise UsageError(f"logger.wandb: {error}; logger.wandb.mode=offline or logger=csv need no account") from None


def of_config(cfg: DictConfig, out: Path, kind: str) -> Any:
    """The W&B run of a config: one that trains goes on where it was resumed, and all is drawn over iterations."""
    job = Job(
        kind=kind,
        name=f"{cfg.method.name}-{cfg.reward.name}-kl{cfg.method.get('kl_coef', '')}-s{cfg.seed}",
        tags=(cfg.method.name, cfg.reward.name, cfg.model.name, *cfg.tags),
        config=OmegaConf.to_container(cfg, resolve=True),
        id=kept_id(out / ID) if kind == "train" else None,
    )
    run = start(cfg.logger.wandb, out, job)
    run.define_metric("iteration", hidden=True)
    run.define_metric("*", step_metric="iteration")
    return run


def has_account() -> bool:
    """Whether W&B would find a key: in the environment or in netrc."""
    if os.environ.get("WANDB_API_KEY"):
        return True
    try:
        return bool(netrc.netrc().authenticators(os.environ.get("WANDB_BASE_URL", "api.wandb.ai").split("//")[-1]))
    except (OSError, netrc.NetrcParseError):
        return False


def kept_id(file: Path) -> str:
    """The id in the file, made where there is none: what writes it again goes on in the same W&B run."""
    if not file.exists():
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(os.urandom(4).hex(), encoding="utf-8")
    return file.read_text(encoding="utf-8")


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
    run = of_config(cfg, out, "eval")
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
