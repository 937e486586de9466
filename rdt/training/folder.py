"""A run's output folder: beginning a run in it, continuing the run that it holds, and the checkpoints in it."""

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from rdt import files
from rdt.config.recorded import read_recorded
from rdt.errors import UsageError

MAY_CHANGE = {"iterations", "max_passes", "micro_batch_size", "devices", "num_nodes", "resume", "output_dir", "logger",
              "trainer", "evaluation", "sweep", "dry_run", "tags", "overrides", "push_to_hub", "cache"}  # fmt: skip
# top-level keys in which a run and its continuation may differ
ERROR = "error.txt"  # why a job of a sweep failed


def checkpoints(out: Path) -> list[Path]:
    """Return the complete checkpoints of a run, oldest first."""
    return sorted(path for path in (out / "checkpoints").glob("[0-9]*") if path.name.isdigit())


def newest_checkpoint(out: Path) -> Path | None:
    """Return the newest complete checkpoint of a run; None if there is none."""
    return max(checkpoints(out), default=None)


def resumed_from(cfg: DictConfig, out: Path) -> Path | None:
    """Return the checkpoint file to continue from: that of `resume`, or the newest in the folder; None to start."""
    if cfg.resume == "never":
        return None
    found = newest_checkpoint(out) if cfg.resume == "auto" else Path(cfg.resume)
    return found / "run.ckpt" if found else None


def check_folder(cfg: DictConfig, out: Path) -> None:
    """Raise UsageError if the folder cannot be written, or holds a run of another config."""
    check_writable("output_dir", out)
    if cfg.resume not in ("auto", "never") and not (Path(cfg.resume) / "run.ckpt").is_file():
        raise UsageError(f"resume={cfg.resume} is not auto, never or a checkpoint folder (with run.ckpt in it)")
    if cfg.resume == "never" or not (out / "config.yaml").is_file():
        return
    before, now = _fixed(read_recorded(out / "config.yaml")), _fixed(cfg)
    for key in sorted(now | before):
        if before.get(key) != now.get(key):
            raise UsageError(
                f"{key}={now.get(key)} differs from {before.get(key)} of the run in output_dir={out};"
                " take another output_dir, or resume=never to start over"
            )


def check_writable(key: str, folder: Path) -> None:
    """Raise UsageError if a folder, which need not exist yet, cannot be written."""
    nearest = next(parent for parent in (folder, *folder.absolute().parents) if parent.exists())
    if not nearest.is_dir() or not os.access(nearest, os.W_OK):
        raise UsageError(f"{key}={folder} cannot be written: {nearest} is not a writable folder")


def is_finished(cfg: DictConfig, out: Path) -> bool:
    """Return whether a run of exactly this config has written everything; False if resume=never starts it over."""
    written = all((out / name).is_file() for name in ("config.yaml", "result.json", "report.html"))
    if cfg.resume == "never" or not written:
        return False
    whole = (OmegaConf.to_container(config, resolve=True) for config in (read_recorded(out / "config.yaml"), cfg))
    before, now = ({k: v for k, v in config.items() if k not in ("output_dir", "dry_run")} for config in whole)
    return before == now


def fail(out: Path, reason: str) -> None:
    """Leave the reason of a failure for the sweep's report; it is lost if it cannot be written."""
    with suppress(OSError):
        out.mkdir(parents=True, exist_ok=True)
        files.write_text(out / ERROR, reason + "\n")


def begin(cfg: DictConfig, out: Path) -> None:
    """Write config.yaml; resume=never first removes what an earlier run could be continued from."""
    out.mkdir(parents=True, exist_ok=True)
    files.remove(out / ERROR)
    if cfg.resume == "never":
        for name in ("checkpoints", "metrics.csv", "result.json", "wandb_id"):
            files.remove(out / name)
    with files.replacing(out / "config.yaml") as unfinished:
        OmegaConf.save(cfg, unfinished, resolve=True)


def _fixed(cfg: Any) -> dict[str, Any]:
    """Return the dotted keys and values that a run and its continuation must share."""
    whole = OmegaConf.to_container(cfg, resolve=True)
    return dict(_flat({key: value for key, value in whole.items() if key not in MAY_CHANGE}))


def _flat(tree: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in tree.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
