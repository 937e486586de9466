"""Reads a finished run back from its folder: its config, its result, and its trained policy.

The folder may come from a stranger. What its config names is built only if `rdt.targets` permits it; `allowed` returns
what the user of a command permits.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from rdt import checkpoint, result, targets
from rdt.config.curve import points
from rdt.config.recorded import read_recorded
from rdt.errors import UsageError, flat
from rdt.result import Result
from rdt.training import digests

if TYPE_CHECKING:
    from rdt.training.experiment import Experiment

LORA = f"lora/{checkpoint.LORA}"
NEEDED = {  # the files of a finished run, and what it means if one is missing
    "config.yaml": "no run wrote here",
    "result.json": "the run did not finish",
    LORA: "it was moved or deleted",
}


@dataclass(frozen=True)
class FinishedRun:
    """Holds what a run left in its folder; weights are loaded only by `experiment`."""

    folder: Path
    cfg: DictConfig  # resolved
    result: Result
    digest: str  # of the adapter, as its run wrote it

    def experiment(self) -> "Experiment":
        """Return the run's objects with the trained adapter in place, on the GPU if there is one."""
        import torch

        from rdt.models.lora import read_lora
        from rdt.training.experiment import Experiment
        from rdt.training.silence import silence_libraries

        silence_libraries()
        if digests.sha256(self.folder / LORA) != self.digest:
            raise UsageError(f"{self.folder / LORA} is damaged: it is not what its run wrote; start the run again")
        with misread(self.folder):
            experiment = Experiment(self.cfg)
            _ = experiment.method, experiment.curve()
        weights = read_lora(self.folder / LORA, experiment.policy.adapter)
        try:
            experiment.policy.load_lora(weights)
        except ValueError as error:
            raise UsageError(f"{self.folder / LORA}: {error}") from None
        experiment.method.to("cuda" if torch.cuda.is_available() else "cpu")
        return experiment


@contextmanager
def misread(folder: Path) -> Iterator[None]:
    """Turn what a config of a wrong structure raises, while objects are built from it, into a UsageError."""
    try:
        yield
    except (KeyError, TypeError, AttributeError, OmegaConfBaseException) as error:
        reason = f"{type(error).__name__}: {flat(error)[:200]}"
        raise UsageError(f"{folder / 'config.yaml'} does not describe a run of this version: {reason}") from error


def allowed(cfg: DictConfig) -> list[str]:
    """Return what the user of a command permits: what `allow` lists, and the targets of the guidance that was typed."""
    typed, listed = cfg.get("guidance"), cfg.allow if OmegaConf.is_list(cfg.allow) else ()
    return [*map(str, listed), *(targets.named_in(OmegaConf.to_container(typed)) if typed else ())]


def read_finished(run: Any, guidance: DictConfig | None) -> FinishedRun:
    """Return the run in folder `run`, under another guidance if one is given.

    UsageError if no run finished there, or if its config names what nobody permitted.
    """
    if not run:
        raise UsageError("run= is missing; give the output folder of a finished run")
    folder = Path(str(run)).expanduser()
    if not folder.is_dir():
        raise UsageError(f"run={folder} is not a folder; give the output folder of a finished run")
    for name, meaning in NEEDED.items():
        if not (folder / name).is_file():
            raise UsageError(f"run={folder} has no {name}: {meaning}")
    return FinishedRun(folder, _config(folder / "config.yaml", guidance), _result(folder), _digest(folder))


def _digest(folder: Path) -> str:
    try:
        return digests.lora_digest(folder / LORA)
    except ValueError as error:
        raise UsageError(f"{error}; start the run again to write it") from None


def _config(file: Path, guidance: DictConfig | None) -> DictConfig:
    cfg = read_recorded(file)
    targets.check_targets(OmegaConf.to_container(cfg), file)
    targets.check_addresses(OmegaConf.to_container(cfg), file)
    if guidance is not None:
        cfg.guidance = OmegaConf.create(OmegaConf.to_container(guidance))
        OmegaConf.resolve(cfg)
        points(OmegaConf.to_container(cfg.guidance))  # raises UsageError if the curve is not valid
    return cfg


def _result(folder: Path) -> Result:
    try:
        return result.read(folder)
    except ValueError as error:
        raise UsageError(f"{folder / result.FILE}: {error}") from None
