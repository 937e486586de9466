"""A run's output folder: whose it is, and the complete checkpoints in it.

A finished run, read back from its folder: what it was, what it found, and its policy.
"""

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig, OmegaConf

from rdt.config.curve import points
from rdt.errors import UsageError

if TYPE_CHECKING:
    from rdt.training.experiment import Experiment


FREE = {"iterations", "max_passes", "micro_batch_size", "devices", "num_nodes", "resume", "output_dir", "logger",
        "trainer", "evaluation", "sweep", "dry_run", "tags", "overrides", "push_to_hub", "cache"}  # fmt: skip
# what may differ between a run and its continuation
ERROR = "error.txt"  # why a sweep's job failed


def checkpoints(out: Path) -> list[Path]:
    """The complete checkpoints of a run, oldest first."""
    return sorted(path for path in (out / "checkpoints").glob("[0-9]*") if path.name.isdigit())


def resumed_from(cfg: DictConfig, out: Path) -> Path | None:
    """The checkpoint to continue from: the newest of this folder, or the one that was named."""
    if cfg.resume == "never":
        return None
    found = checkpoints(out) if cfg.resume == "auto" else [Path(cfg.resume)]
    return found[-1] / "run.ckpt" if found else None


def check(cfg: DictConfig, out: Path) -> None:
    """UsageError where the folder cannot be written, or holds a run of another config."""
    writable("output_dir", out)
    if cfg.resume not in ("auto", "never") and not (Path(cfg.resume) / "run.ckpt").is_file():
        raise UsageError(f"resume={cfg.resume} is not auto, never or a checkpoint folder (with run.ckpt in it)")
    if cfg.resume == "never" or not (out / "config.yaml").is_file():
        return
    was, now = _fixed(OmegaConf.load(out / "config.yaml")), _fixed(cfg)
    for key in sorted(now | was, key=lambda name: name.count(".")):
        if was.get(key) != now.get(key):
            raise UsageError(
                f"{key}={now.get(key)} differs from {was.get(key)} of the run in output_dir={out};"
                " take another output_dir, or resume=never to start over"
            )


def writable(key: str, folder: Path) -> None:
    """UsageError where nothing could be written into a folder, which need not exist yet."""
    nearest = next(parent for parent in (folder, *folder.absolute().parents) if parent.exists())
    if not nearest.is_dir() or not os.access(nearest, os.W_OK):
        raise UsageError(f"{key}={folder} cannot be written: {nearest} is not a writable folder")


def finished(cfg: DictConfig, out: Path) -> bool:
    """Whether a run of this very config has written all it writes; resume=never wants it anew."""
    written = all((out / name).is_file() for name in ("config.yaml", "result.json", "report.html"))
    if cfg.resume == "never" or not written:
        return False
    whole = (OmegaConf.to_container(config, resolve=True) for config in (OmegaConf.load(out / "config.yaml"), cfg))
    was, now = ({key: value for key, value in one.items() if key not in ("output_dir", "dry_run")} for one in whole)
    return was == now


def fail(out: Path, why: str) -> None:
    """Leave a line for the report of the sweep; one that cannot be written is lost."""
    with suppress(OSError):
        out.mkdir(parents=True, exist_ok=True)
        (out / ERROR).write_text(why + "\n", "utf-8")


def begin(cfg: DictConfig, out: Path) -> None:
    """Write config.yaml; resume=never first removes what an earlier run would be continued from."""
    out.mkdir(parents=True, exist_ok=True)
    (out / ERROR).unlink(missing_ok=True)
    if cfg.resume == "never":
        shutil.rmtree(out / "checkpoints", ignore_errors=True)
        for name in ("metrics.csv", "result.json", "wandb_id"):
            (out / name).unlink(missing_ok=True)
    temporary = out / "config.tmp"
    OmegaConf.save(cfg, temporary, resolve=True)
    temporary.replace(out / "config.yaml")


def _fixed(cfg: Any) -> dict[str, Any]:
    """Flat keys and values of what a continuation must have in common."""
    whole = OmegaConf.to_container(cfg, resolve=True)
    return dict(_flat({key: value for key, value in whole.items() if key not in FREE}))


def _flat(tree: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in tree.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


LORA = "lora/pytorch_lora_weights.safetensors"
NEEDED = {"config.yaml": "no run wrote here", "result.json": "the run is unfinished or broke off", LORA: "it was moved"}


@dataclass(frozen=True)
class Saved:
    """The record of a run folder; nothing heavy is loaded yet."""

    folder: Path
    cfg: DictConfig  # resolved
    result: dict[str, Any]

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
    return Saved(folder, _config(folder / "config.yaml", guidance), _result(folder / "result.json"))


def _config(file: Path, guidance: DictConfig | None) -> DictConfig:
    cfg = OmegaConf.load(file)
    if not isinstance(cfg, DictConfig) or "model" not in cfg:
        raise UsageError(f"{file} is not the config of a run")
    if guidance is not None:
        cfg.guidance = OmegaConf.create(OmegaConf.to_container(guidance))
        OmegaConf.resolve(cfg)
        points(OmegaConf.to_container(cfg.guidance))  # refuses a curve that cannot be meant
    return cfg


def _result(file: Path) -> dict[str, Any]:
    try:
        result = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UsageError(f"{file} is corrupt: {error}") from None
    missing = [key for key in ("base", "points") if not isinstance(result, dict) or key not in result]
    if missing:
        raise UsageError(f"{file} lacks {', '.join(missing)}")
    return result
