"""`python -m rdt.run method=sqdf reward=hps`: compose, check at the door, then train, evaluate and record."""

import os
import sys
from pathlib import Path

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf, open_dict

from rdt import door
from rdt.errors import one_line
from rdt.sweep import SweepReport

HERE = Path(__file__).resolve().parent


def conf_dir() -> str:
    """The config folder: beside the package in a checkout, inside it in a wheel."""
    for folder in (HERE.parent / "conf", HERE / "conf"):
        if (folder / "config.yaml").is_file():
            return str(folder)
    raise FileNotFoundError(f"no conf/config.yaml beside or inside {HERE}; reinstall rdt")


@hydra.main(version_base="1.3", config_path=conf_dir(), config_name="config")
def main(cfg: DictConfig) -> None:
    """One job."""
    hydra_config = HydraConfig.get()
    out = Path(hydra_config.runtime.output_dir)
    with open_dict(cfg):
        cfg.output_dir = str(out)
        cfg.overrides = list(hydra_config.overrides.task)
        if hydra_config.mode == RunMode.MULTIRUN and cfg.logger.wandb is not None:
            cfg.logger.wandb.group = cfg.logger.wandb.group or Path(hydra_config.sweep.dir).as_posix()
    OmegaConf.resolve(cfg)
    door.check(cfg, hydra_config)
    if cfg.dry_run:
        print(door.plan(cfg))
        return
    from rdt.launch import launch
    from rdt.report import report

    launch(cfg, out)
    page = report([out], out)
    print(f"report   {page}\npicture  {page.with_name('front.png')}")


def entry() -> None:
    """The command: errors that inputs cause are one line and exit status 1."""
    os.environ.setdefault("HYDRA_FULL_ERROR", "1")
    with one_line():
        try:
            main()
        finally:
            SweepReport.draw()


if __name__ == "__main__":
    sys.exit(entry())
