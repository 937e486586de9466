"""W&B: a run there, online where an account is configured, else offline.

What a run shows on W&B: final scalars, sample grids, its front, and once trained the adapter as an artifact.
"""

import netrc
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from rdt.errors import UsageError

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
