"""Where training is logged: metrics.csv always, and W&B, online where an account is configured, else offline."""

import csv
import netrc
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import Logger, WandbLogger
from lightning.pytorch.utilities import rank_zero_only
from omegaconf import DictConfig, OmegaConf

from rdt.errors import UsageError

ID = "wandb_id"  # in the output folder of a run that logs to W&B


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
