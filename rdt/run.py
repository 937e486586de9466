"""Train, evaluate and record: `python -m rdt.run method=sqdf reward=hps`.

main     Hydra composes the config; a sweep calls it once per job
job      check, then print the plan or launch, report, push
"""

import os
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, open_dict

from rdt.config import preflight
from rdt.config.compose import command_errors, conf_dir, in_sweep, job_errors, typed
from rdt.config.plan import plan
from rdt.errors import FORESEEN, flat
from rdt.training import constraints, folder
from rdt.training.sweep import SweepReport


@hydra.main(version_base="1.3", config_path=conf_dir(), config_name="config")
def main(cfg: DictConfig) -> tuple[float, float] | None:
    """Run one job; in a sweep, return the reward and the diversity that it reached, for a sweeper that searches."""
    hydra_config = HydraConfig.get()
    with job_errors(hydra_config):
        name_outputs(cfg, hydra_config)
        if in_sweep(hydra_config):
            return sweep_job(cfg, hydra_config)
        job(cfg, hydra_config)
    return None


def job(cfg: DictConfig, hydra_config: Any) -> None:
    """Check the config, then print the plan, or train, evaluate, record and report."""
    out = Path(str(cfg.output_dir))
    for line in preflight.check_config(
        cfg, hydra_config, constraints.check_constraints, lambda cfg: folder.check_folder(cfg, out)
    ):
        print(f"note     {line}", flush=True)
    if cfg.dry_run:
        print(plan(cfg))
        return
    from rdt.report.write import report
    from rdt.training.launch import launch

    launch(cfg)
    report([out], out)
    if cfg.push_to_hub and int(os.environ.get("RANK", 0)) == 0:
        from rdt.training.card import push

        print(f"pushed   {push(out / 'lora', cfg.push_to_hub)}")


def name_outputs(cfg: DictConfig, hydra_config: Any) -> None:
    """Set where the outputs go: the jobs of a sweep into folders side by side and into one W&B group."""
    with open_dict(cfg):
        cfg.overrides = typed(hydra_config)
        if in_sweep(hydra_config):
            if not any(override.startswith("output_dir=") for override in cfg.overrides):
                cfg.output_dir = hydra_config.runtime.output_dir
            if isinstance(cfg.logger.wandb, DictConfig):
                cfg.logger.wandb.group = cfg.logger.wandb.group or Path(hydra_config.sweep.dir).as_posix()
        if isinstance(cfg.output_dir, str):
            cfg.output_dir = str(Path(cfg.output_dir).expanduser().absolute())


def sweep_job(cfg: DictConfig, hydra_config: Any) -> tuple[float, float] | None:
    """Run a job unless it is finished; if it fails, leave the reason in its folder for the sweep's report."""
    out = Path(str(cfg.output_dir))
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
        with suppress(OSError):  # Hydra made the job's folder; it is empty if nothing ran
            Path(hydra_config.runtime.output_dir).rmdir()
    return None if cfg.dry_run else reached(out)


def reached(out: Path) -> tuple[float, float]:
    """Return the mean of the training reward and of the first measure of diversity, on held-out prompts."""
    from rdt.result import read

    result = read(out)
    means = result.tuned.means()
    return means[f"reward/{result.reward}"], next(mean for name, mean in means.items() if name.startswith("diversity/"))


def entry() -> None:
    """Run the command, and draw the report of a sweep at its end."""
    sys.argv[1:] = [word for argument in sys.argv[1:] for word in constraints.expand_shorthand(argument)]
    with command_errors():
        try:
            main()
        finally:
            SweepReport.draw()


if __name__ == "__main__":
    entry()
