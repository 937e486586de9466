"""A finished run, read back from its folder: what it was, what it found, and its policy."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig, OmegaConf

from rdt import result
from rdt.config.curve import modules
from rdt.errors import UsageError
from rdt.result import Result

if TYPE_CHECKING:
    from rdt.training.experiment import Experiment

LORA = "lora/pytorch_lora_weights.safetensors"
NEEDED = {"config.yaml": "no run wrote here", "result.json": "the run is unfinished or broke off", LORA: "it was moved"}


@dataclass(frozen=True)
class Saved:
    """The record of a run folder; nothing heavy is loaded yet."""

    folder: Path
    cfg: DictConfig  # resolved
    result: Result

    def experiment(self) -> "Experiment":
        """The run's objects with the trained adapter in place, on the GPU where there is one."""
        import torch

        from rdt.models.lora import read_lora
        from rdt.training.experiment import Experiment
        from rdt.training.launch import quiet

        quiet()
        experiment = Experiment(self.cfg)
        weights = read_lora(self.folder / LORA)
        try:
            experiment.policy.load_lora(weights)
        except ValueError as error:
            raise UsageError(f"{self.folder / LORA}: {error}") from None
        experiment.method.to("cuda" if torch.cuda.is_available() else "cpu")
        return experiment


def read(run: Any, guidance: DictConfig | None) -> Saved:
    """The run in folder `run`, under another guidance where one is given; UsageError where it is no finished run."""
    if not run:
        raise UsageError("run= is missing; give the output folder of a finished run")
    folder = Path(str(run)).expanduser()
    if not folder.is_dir():
        raise UsageError(f"run={folder} is no folder; give the output folder of a finished run")
    for name, reason in NEEDED.items():
        if not (folder / name).is_file():
            raise UsageError(f"run={folder} has no {name}: {reason}")
    return Saved(folder, _config(folder / "config.yaml", guidance), _result(folder))


def _config(file: Path, guidance: DictConfig | None) -> DictConfig:
    cfg = OmegaConf.load(file)
    if not isinstance(cfg, DictConfig) or "model" not in cfg:
        raise UsageError(f"{file} is not the config of a run")
    if guidance is not None:
        cfg.guidance = OmegaConf.create(OmegaConf.to_container(guidance))
        OmegaConf.resolve(cfg)
        modules(OmegaConf.to_container(cfg.guidance))  # refuses a curve that cannot be meant
    return cfg


def _result(folder: Path) -> Result:
    try:
        return result.read(folder)
    except ValueError as error:
        raise UsageError(f"{folder / result.FILE}: {error}") from None
