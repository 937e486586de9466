"""Where training is logged: metrics.csv always, and W&B, online where an account is configured, else offline."""

import netrc
import os
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import CSVLogger, Logger, WandbLogger
from omegaconf import DictConfig, OmegaConf


class Metrics(CSVLogger):
    """`metrics.csv` right in the output folder; one row per logged iteration, a resumed run appends."""

    def __init__(self, folder: Path) -> None:
        super().__init__(save_dir=folder, name="", version="", flush_logs_every_n_steps=10)

    @property
    def log_dir(self) -> str:
        return str(self._root_dir)


def loggers(cfg: DictConfig, out: Path) -> list[Logger]:
    """The run's loggers; the run's W&B id is kept in the output folder, so that a resumed run goes on in it."""
    found: list[Logger] = [Metrics(out)]
    if cfg.logger.wandb is not None and int(os.environ.get("RANK", 0)) == 0:
        found.append(_wandb(cfg, out))
    return found


def _wandb(cfg: DictConfig, out: Path) -> WandbLogger:
    mode = cfg.logger.wandb.mode or ("online" if has_account() else "offline")
    if mode == "offline" and cfg.logger.wandb.mode is None:
        print("wandb: no account configured, logging offline; `wandb login` once, or `wandb sync` the folder later")
    os.environ.setdefault("WANDB_SILENT", "true")
    c: Any = OmegaConf.to_container(cfg, resolve=True)
    return WandbLogger(
        project=cfg.logger.wandb.project,
        entity=cfg.logger.wandb.entity,
        group=cfg.logger.wandb.group,
        job_type="train",
        name=f"{cfg.method.name}-{cfg.reward.name}-kl{c['method'].get('kl_coef', '')}-s{cfg.seed}",
        tags=[cfg.method.name, cfg.reward.name, cfg.model.name, *cfg.tags],
        config=c,
        save_dir=out,
        id=_run_id(out),
        offline=mode == "offline",
        resume="allow" if mode == "online" else None,
        log_model=False,
    )


def has_account() -> bool:
    """Whether W&B would find a key: in the environment or in netrc."""
    if os.environ.get("WANDB_API_KEY"):
        return True
    try:
        return bool(netrc.netrc().authenticators(os.environ.get("WANDB_BASE_URL", "api.wandb.ai").split("//")[-1]))
    except (OSError, netrc.NetrcParseError):
        return False


def _run_id(out: Path) -> str:
    file = out / "wandb_id"
    if not file.exists():
        out.mkdir(parents=True, exist_ok=True)
        file.write_text(os.urandom(4).hex(), encoding="utf-8")
    return file.read_text(encoding="utf-8")
