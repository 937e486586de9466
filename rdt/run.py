"""Train, evaluate and record: `python -m rdt.run method=sqdf reward=hps`.

main     Hydra composes the config; a sweep calls it once per job
job      check, then print the plan or launch, report, push
"""

import sys
from contextlib import suppress
from copy import deepcopy
from pathlib import Path
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf, open_dict

from rdt import wandb
from rdt.config import preflight
from rdt.config.compose import command_errors, conf_dir, in_sweep, job_errors, typed
from rdt.config.judges import settle_panel
from rdt.config.plan import plan
from rdt.config.rules import without_rules
from rdt.config.run_help import print_run_help
from rdt.errors import FORESEEN, Terminated, flat, to_stderr
from rdt.training import constraints, folder, lock, paths, processes
from rdt.training.sweep import SweepReport, job_name


@hydra.main(version_base="1.3", config_path=conf_dir(), config_name="config")
def main(cfg: DictConfig) -> tuple[float, float] | None:
    """Run one job; in a sweep, return the reward and the diversity that it reached, for a sweeper that searches."""
    hydra_config = HydraConfig.get()
    with job_errors(hydra_config):
        processes.check_launcher()
        fresh = "${now:" in str(OmegaConf.to_container(cfg)["output_dir"])  # a name that no other start has
        name_outputs(cfg, hydra_config)
        if in_sweep(hydra_config):
            return sweep_job(cfg, hydra_config)
        job(cfg, hydra_config, fresh)
    return None


def job(cfg: DictConfig, hydra_config: Any, fresh: bool = False, name: str = "") -> None:
    """Check the config, then print the plan, or train, evaluate, record and report.

    If `fresh`, output_dir is a new folder: its name gets a number if another run has taken it. A job of a sweep has a
    `name`, and prints one line about what it reached.
    """
    further = (constraints.check_constraints, wandb.check_wandb, paths.make_absolute, folder.check_output_dir)
    for line in preflight.check_config(cfg, hydra_config, *further):
        print(f"note     {line}", flush=True)
    if cfg.dry_run:
        print(plan(cfg))
        return
    if cfg.num_nodes > 1:  # on each machine, and rank 0 holds the lock
        finish(cfg, name)
        return
    with lock.held("output_dir", Path(cfg.output_dir), fresh) as out:
        cfg.output_dir = str(out)
        finish(cfg, name)


def finish(cfg: DictConfig, name: str = "") -> None:
    """Train, evaluate and record; on the machine of rank 0, draw the report and push the adapter.

    Of a job with a name one line is printed in place of the tables.
    """
    from rdt.report.write import report
    from rdt.training.abort import explain_full_disk
    from rdt.training.launch import launch

    out = Path(cfg.output_dir)
    with explain_full_disk(out):
        if not launch(cfg):
            return
        report([out], out, name=name)
    if cfg.push_to_hub:
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
                cfg.logger.wandb.group = cfg.logger.wandb.group or wandb.group_of(Path(hydra_config.sweep.dir))
        if isinstance(cfg.output_dir, str) and cfg.output_dir.strip():
            cfg.output_dir = str(Path(cfg.output_dir).expanduser().absolute())


def sweep_job(cfg: DictConfig, hydra_config: Any) -> tuple[float, float] | None:
    """Run a job unless it is finished; if it fails, leave the reason in its folder for the sweep's report.

    A signal that stops a job ends the whole sweep, since Hydra passes SystemExit on.
    """
    out = Path(str(cfg.output_dir))
    try:
        if folder.is_finished(settled(cfg), out):
            print(f"finished {out}")
        else:
            print(name := job_name(cfg, hydra_config.job.num), flush=True)
            job(cfg, hydra_config, name=name)
    except Terminated as error:
        to_stderr(f"{flat(error)}; the sweep ends here, and its command continues it")
        sys.exit(1)
    except FORESEEN as error:
        if not cfg.dry_run:
            folder.fail(out, flat(error))
        raise
    finally:
        with suppress(OSError):  # Hydra made the job's folder; it is empty if nothing ran
            Path(hydra_config.runtime.output_dir).rmdir()
    return None if cfg.dry_run else reached(out)


def settled(cfg: DictConfig) -> DictConfig:
    """Return a config that was not checked yet as its run would record it."""
    found = without_rules(deepcopy(cfg))
    OmegaConf.resolve(found)
    settle_panel(found)
    paths.make_absolute(found)
    return found


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
        print_run_help(sys.argv[1:])
        try:
            main()
        finally:
            SweepReport.draw()


if __name__ == "__main__":
    entry()
