"""`python -m rdt.run method=sqdf reward=hps`: compose, check at the door, then train, evaluate and record."""

import os
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, open_dict

from rdt.config import check
from rdt.config.compose import alone, command, conf_dir
from rdt.config.plan import plan
from rdt.errors import FORESEEN, flat
from rdt.training import folder
from rdt.training.constraints import expand_shorthand
from rdt.training.sweep import SweepReport


@hydra.main(version_base="1.3", config_path=conf_dir(), config_name="config")
def main(cfg: DictConfig) -> tuple[float, float] | None:
    """One job; what it reached, for a sweeper that searches."""
    hydra_config = HydraConfig.get()
    with alone(hydra_config):
        name_outputs(cfg, hydra_config)
        if hydra_config.mode == RunMode.MULTIRUN:
            one_of_many(cfg, hydra_config)
            return None if cfg.dry_run else reached(Path(cfg.output_dir))
        job(cfg, hydra_config)
    return None


def reached(out: Path) -> tuple[float, float]:
    """Means of the reward that was trained on and of the first measure of diversity, on held-out prompts."""
    from rdt.result import read

    result = read(out)
    means = result.tuned.means()
    return means[f"reward/{result.reward}"], next(mean for name, mean in means.items() if name.startswith("diversity/"))


def one_of_many(cfg: DictConfig, hydra_config: Any) -> None:
    """A sweep's job: not run again where it is finished; one that fails leaves its line for the sweep's report."""
    out = Path(cfg.output_dir)
    try:
        if folder.is_finished(cfg, out):
            print(f"finished {out}")
        else:
            job(cfg, hydra_config)
    except FORESEEN as error:
        if not cfg.dry_run:
            folder.fail(out, flat(error))
        raise
    finally:
        with suppress(OSError):  # Hydra made the job's folder; where nothing ran it is empty
            Path(hydra_config.runtime.output_dir).rmdir()


def name_outputs(cfg: DictConfig, hydra_config: Any) -> None:
    """Put into the config where its outputs go: a sweep's jobs side by side in folders and in one W&B group."""
    with open_dict(cfg):
        cfg.overrides = list(hydra_config.overrides.task)
        if hydra_config.mode == RunMode.MULTIRUN:
            if not any(override.startswith("output_dir=") for override in cfg.overrides):
                cfg.output_dir = hydra_config.runtime.output_dir
            if cfg.logger.wandb is not None:
                cfg.logger.wandb.group = cfg.logger.wandb.group or Path(hydra_config.sweep.dir).as_posix()
        cfg.output_dir = str(Path(cfg.output_dir).absolute())


def job(cfg: DictConfig, hydra_config: Any) -> None:
    """Check, then plan or run."""
    check.check(cfg, hydra_config)
    if cfg.dry_run:
        print(plan(cfg))
        return
    from rdt.report.write import report
    from rdt.training.launch import launch

    launch(cfg)
    report([Path(cfg.output_dir)], Path(cfg.output_dir))
    if cfg.push_to_hub and int(os.environ.get("RANK", 0)) == 0:
        from rdt.training.card import push

        print(f"pushed   {push(Path(cfg.output_dir) / 'lora', cfg.push_to_hub)}")


def entry() -> None:
    """The command."""
    sys.argv[1:] = [word for argument in sys.argv[1:] for word in expand_shorthand(argument)]
    with command():
        try:
            main()
        finally:
            SweepReport.draw()


if __name__ == "__main__":
    entry()
