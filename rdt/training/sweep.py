"""Sweeps: a multirun continues where the same command was interrupted, and ends with a report over its jobs."""

import sys
from pathlib import Path
from typing import Any

from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf, open_dict

from rdt import credentials
from rdt.errors import UsageError, flat

FINISHED = "finished"  # an empty file in the folder of a sweep whose jobs all succeeded
SWEEP_DIR = "hydra.sweep.dir="


class SweepReport(Callback):
    """Chooses the folder of a sweep before its jobs start, and draws the report when all of them have ended."""

    folder: Path | None = None

    def on_multirun_start(self, config: DictConfig, **_: Any) -> None:
        """Fix the sweep's folder as an override for every job, since its default name depends on each job's method."""
        credentials.check_recorded(OmegaConf.to_container(config))
        if not any(override.startswith(SWEEP_DIR) for override in config.hydra.overrides.hydra):
            older = interrupted(config.hydra)
            if older is not None:
                print(f"continues {older}", flush=True)
            with open_dict(config):
                config.hydra.sweep.dir = str(older or config.hydra.sweep.dir)
                config.hydra.overrides.hydra = [*config.hydra.overrides.hydra, f"{SWEEP_DIR}{config.hydra.sweep.dir}"]
        SweepReport.folder = Path(config.hydra.sweep.dir)

    def on_multirun_end(self, config: DictConfig, **_: Any) -> None:
        """Mark the sweep as finished; Hydra calls this only if no job failed."""
        (Path(config.hydra.sweep.dir) / FINISHED).touch()

    @staticmethod
    def draw() -> None:
        """Draw the report over the sweep's jobs, if any has a result; log it to W&B too if a job logged there."""
        folder = SweepReport.folder
        if folder is None or not any(folder.rglob("result.json")):
            return
        from rdt.report.write import report

        try:
            report([folder], folder, wandb=any(folder.rglob("wandb_id")))
        except UsageError as error:
            print(f"warning: {flat(error)}", file=sys.stderr)


def interrupted(hydra_config: DictConfig) -> Path | None:
    """Return the newest unfinished sweep of the same overrides, among those beside the new one, or None."""
    typed = _typed(hydra_config)
    for file in sorted(Path(hydra_config.sweep.dir).parents[1].glob("*/*/multirun.yaml"), reverse=True):
        if not (file.parent / FINISHED).exists() and _typed(OmegaConf.load(file).hydra) == typed:
            return file.parent
    return None


def _typed(hydra_config: DictConfig) -> tuple[list[str], list[str]]:
    """Return the overrides that the user typed, for the job and for Hydra."""
    overrides = hydra_config.overrides
    return list(overrides.task), [o for o in overrides.hydra if not o.startswith(SWEEP_DIR)]
