"""Starting W&B runs: online if an account is configured, otherwise offline; run ids and accounts."""

import hashlib
import netrc
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from rdt import files
from rdt.errors import UsageError

MODES = ("online", "offline", "disabled")
SILENT = {"offline": "offline", "dryrun": "offline", "disabled": "disabled"}  # WANDB_MODE -> mode; each wins
LONGEST_TAG, LONGEST_GROUP = 64, 128  # letters that W&B's server accepts
ID = "wandb_id"  # the file in an output folder that holds the id of its W&B run


@dataclass(frozen=True)
class Job:
    """Describes a W&B run: its kind, name, tags and config."""

    kind: str  # train, eval or pareto
    name: str
    tags: tuple[str, ...]
    config: Any
    id: str | None = None  # of the run to continue; None for a new one


def start(section: Mapping[str, Any], out: Path, job: Job) -> Any:
    """Return a W&B run of a config section `logger.wandb`, with files in `out`/wandb; UsageError if W&B refuses it."""
    import wandb

    mode = _mode(section["mode"])
    try:
        return wandb.init(
            project=section["project"],
            entity=section["entity"],
            group=section["group"],
            job_type=job.kind,
            name=job.name,
            tags=job.tags,
            config=job.config,
            dir=out.absolute(),  # W&B's service may run in another folder
            id=job.id,
            mode=mode,
            resume="allow" if mode == "online" else None,
            reinit="finish_previous",  # that of a job of this process that failed
            settings=wandb.Settings(silent=True),
        )
    except (wandb.errors.Error, ValueError) as error:  # ValueError: pydantic's
        raise UsageError(f"logger.wandb: {error}; logger.wandb.mode=offline or logger=csv need no account") from None


def check_wandb(cfg: DictConfig) -> None:
    """Raise UsageError if W&B would refuse the tags, or the mode or the group of the config."""
    for tag in cfg.tags:
        if not isinstance(tag, str) or not 0 < len(tag.strip()) <= LONGEST_TAG:
            wanted = f"a text of 1 to {LONGEST_TAG} letters"
            raise UsageError(f"tags={list(cfg.tags)}: {tag!r} is not a tag, which is {wanted}")
    if cfg.logger.wandb is None:
        return
    mode, group = cfg.logger.wandb.mode, cfg.logger.wandb.group
    if mode is not None and mode not in MODES:
        raise UsageError(f"logger.wandb.mode={mode} is not one of {', '.join(MODES)}")
    if group is not None and not (isinstance(group, str) and 0 < len(group) <= LONGEST_GROUP):
        raise UsageError(f"logger.wandb.group={group} is not a text of 1 to {LONGEST_GROUP} letters")


def group_of(sweep: Path) -> str:
    """Return the W&B group of a sweep's folder: its path, of which a long one keeps its end behind a digest."""
    path = sweep.as_posix()
    if len(path) <= LONGEST_GROUP:
        return path
    digest = hashlib.sha256(path.encode()).hexdigest()[:8]
    return f"{digest}-{path[len(digest) + 1 - LONGEST_GROUP :]}"


def _mode(chosen: str | None) -> Any:
    """Return the mode: what WANDB_MODE silences, else the chosen one, else what an account allows."""
    demanded = os.environ.get("WANDB_MODE", "").lower()
    if demanded in SILENT:
        if chosen == "online":
            print(f"wandb: WANDB_MODE={demanded} of the environment wins over logger.wandb.mode=online")
        return SILENT[demanded]
    if mode := chosen or demanded:
        return mode
    if has_account():
        return "online"
    print("wandb: no account configured, logging offline; `wandb login` once, or `wandb sync` the folder later")
    return "offline"


def start_from_config(cfg: DictConfig, out: Path, kind: str) -> Any:
    """Return the W&B run of a config, drawn over iterations; a resumed training continues its own W&B run."""
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


def wandb_image(picture: Any) -> Any:
    """Return a PIL image as W&B logs it."""
    import wandb

    return wandb.Image(picture)


def has_account() -> bool:
    """Return whether W&B would find an API key, in the environment or in netrc."""
    if os.environ.get("WANDB_API_KEY"):
        return True
    try:
        return bool(netrc.netrc().authenticators(os.environ.get("WANDB_BASE_URL", "api.wandb.ai").split("//")[-1]))
    except (OSError, netrc.NetrcParseError):
        return False


def kept_id(file: Path) -> str:
    """Return the run id in the file, writing a new one if there is no file; runs of the same id are one W&B run."""
    if not file.exists():
        file.parent.mkdir(parents=True, exist_ok=True)
        files.write_text(file, os.urandom(4).hex())
    return file.read_text(encoding="utf-8")
