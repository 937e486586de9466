"""Sweeps: a multirun continues where the same command was interrupted, and ends with a report over its jobs."""

import math
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf, open_dict

from rdt import credentials
from rdt.config.recorded import mapping
from rdt.errors import UsageError, flat, one_line
from rdt.text import read_text
from rdt.training import lock

FINISHED = "finished"  # an empty file in the folder of a sweep whose jobs all succeeded
SWEEP_DIR = "hydra.sweep.dir="


class SweepReport(Callback):
    """Chooses the folder of a sweep before its jobs start, and draws the report when all of them have ended."""

    folder: Path | None = None
    counts: dict[str, int] = {}  # noqa: RUF012 (set once a command) by key: how many values the sweep gives it
    locks = ExitStack()  # holds the lock of the sweep's folder until the report is drawn

    def on_multirun_start(self, config: DictConfig, **_: Any) -> None:
        """Fix the sweep's folder as an override for every job, since its default name depends on each job's method.

        The folder is locked; Hydra would turn an error into a warning, so it ends the command here.
        """
        credentials.check_recorded(OmegaConf.to_container(config))
        named = any(override.startswith(SWEEP_DIR) for override in config.hydra.overrides.hydra)
        older = None if named else interrupted(config.hydra)
        if older is not None:
            print(f"continues {older}", flush=True)
        with one_line():
            where = older or Path(config.hydra.sweep.dir)
            found = self.locks.enter_context(lock.held("hydra.sweep.dir", where, fresh=not named and older is None))
        if not named:
            with open_dict(config):
                config.hydra.sweep.dir = str(found)
                config.hydra.overrides.hydra = [*config.hydra.overrides.hydra, f"{SWEEP_DIR}{found}"]
        SweepReport.folder, SweepReport.counts = found, swept(config.hydra)

    def on_multirun_end(self, config: DictConfig, **_: Any) -> None:
        """Mark the sweep as finished; Hydra calls this only if no job failed."""
        (Path(config.hydra.sweep.dir) / FINISHED).touch()

    @staticmethod
    def draw() -> None:
        """Draw the report over the sweep's jobs, if any has a result; log it to W&B too if a job logged there."""
        with SweepReport.locks:
            SweepReport._draw()

    @staticmethod
    def _draw() -> None:
        folder = SweepReport.folder
        if folder is None or not any(folder.rglob("result.json")):
            return
        from rdt.report.write import report

        try:
            report([folder], folder, wandb=any(folder.rglob("wandb_id")))
        except UsageError as error:
            print(f"warning: {flat(error)}", file=sys.stderr)


def swept(hydra_config: Any) -> dict[str, int]:
    """Return how many values each key takes in a sweep over listed values; empty if a sweeper chooses them itself."""
    if not str(hydra_config.sweeper.get("_target_", "")).endswith("BasicSweeper"):
        return {}
    listed = hydra_config.sweeper.get("params") or {}
    words = [f"{key}={value}" for key, value in listed.items()] + list(hydra_config.overrides.task)
    found = {one.key_or_group: one for one in OverridesParser.create().parse_overrides(words)}
    return {key: len(list(one.sweep_string_iterator())) for key, one in found.items() if one.is_sweep_override()}


def job_name(cfg: DictConfig, number: int) -> str:
    """Return which job of how many this is, its method, and the values that the sweep varies."""
    counts = SweepReport.counts
    of = f"/{math.prod(counts.values())}" if counts else ""
    own = [word for word in cfg.overrides if word.partition("=")[0] in counts.keys() - {"method"}]
    words = " ".join(word.removeprefix("method.") for word in own)
    return f"job {number + 1}{of} {cfg.method.name} {words}".rstrip()


def interrupted(hydra_config: DictConfig) -> Path | None:
    """Return the newest unfinished sweep of the same overrides, among those beside the new one, or None.

    A sweep that is running is left alone, and so is one whose record cannot be read.
    """
    typed = _typed(OmegaConf.to_container(hydra_config.overrides, resolve=False))
    for file in sorted(Path(hydra_config.sweep.dir).parents[1].glob("*/*/multirun.yaml"), reverse=True):
        if not (file.parent / FINISHED).exists() and _recorded(file) == typed and not lock.holder(file.parent):
            return file.parent
    return None


def _recorded(file: Path) -> tuple[list[str], list[str]] | None:
    """Return the overrides in a multirun.yaml; None if it is damaged."""
    try:
        return _typed(mapping(read_text(file))["hydra"]["overrides"])
    except (ValueError, OSError, KeyError, TypeError, AttributeError):
        return None


def _typed(overrides: Any) -> tuple[list[str], list[str]]:
    """Return the overrides that the user typed, for the job and for Hydra; references in them are not resolved."""
    return overrides["task"], [word for word in overrides["hydra"] if not word.startswith(SWEEP_DIR)]
