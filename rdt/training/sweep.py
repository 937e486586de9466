"""A multirun continues where the same command broke off, and ends in a report over every job that left a result."""

import sys
from pathlib import Path
from typing import Any

from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf, open_dict

from rdt.errors import UsageError, flat

FINISHED = "finished"  # in a sweep's folder, once no job of it failed
WHERE = "hydra.sweep.dir="


class SweepReport(Callback):
    """Hydra tells where the sweep is; the report is drawn when all jobs have ended."""

    folder: Path | None = None

    def on_multirun_start(self, config: DictConfig, **_: Any) -> None:
        """Choose the sweep's folder, as an override that every job is composed with: its name hangs on the method's."""
        if not any(override.startswith(WHERE) for override in config.hydra.overrides.hydra):
            older = interrupted(config.hydra)
            if older is not None:
                print(f"continues {older}", flush=True)
            with open_dict(config):
                config.hydra.sweep.dir = str(older or config.hydra.sweep.dir)
                config.hydra.overrides.hydra = [*config.hydra.overrides.hydra, f"{WHERE}{config.hydra.sweep.dir}"]
        SweepReport.folder = Path(config.hydra.sweep.dir)

    def on_multirun_end(self, config: DictConfig, **_: Any) -> None:
        """Hydra calls this where no job failed."""
        (Path(config.hydra.sweep.dir) / FINISHED).touch()

    @staticmethod
    def draw() -> None:
        """The report over the sweep's jobs, on W&B too where any job is; nothing where no job left a result."""
        folder = SweepReport.folder
        if folder is None or not any(folder.rglob("result.json")):
            return
        from rdt.report.write import report

        try:
            report([folder], folder, wandb=any(folder.rglob("wandb_id")))
        except UsageError as error:
            print(f"warning: {flat(error)}", file=sys.stderr)


def interrupted(hydra_config: DictConfig) -> Path | None:
    """The newest unfinished sweep that the same overrides began, beside where a new one would go."""
    typed = _typed(hydra_config)
    for file in sorted(Path(hydra_config.sweep.dir).parents[1].glob("*/*/multirun.yaml"), reverse=True):
        if not (file.parent / FINISHED).exists() and _typed(OmegaConf.load(file).hydra) == typed:
            return file.parent
    return None


def _typed(hydra_config: DictConfig) -> tuple[list[str], list[str]]:
    overrides = hydra_config.overrides
    return list(overrides.task), [o for o in overrides.hydra if not o.startswith(WHERE)]
