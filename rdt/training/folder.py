"""A run's output folder: beginning a run in it, continuing the run that it holds, and the checkpoints in it."""

import os
import re
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from rdt import files
from rdt.config.recorded import ERROR, read_recorded
from rdt.errors import UsageError
from rdt.training import digests, lock

MAY_CHANGE = {"iterations", "max_passes", "micro_batch_size", "devices", "num_nodes", "resume", "output_dir", "logger",
              "trainer", "evaluation", "sweep", "dry_run", "tags", "overrides", "push_to_hub", "cache"}  # fmt: skip
# top-level keys in which a run and its continuation may differ
ORACLE = "oracle"  # the folder of what black-box optimisation asked and was answered
ROUNDS = "rounds"  # the folder of the images that the rounds of tilt sampled
OWN = ("checkpoints", "metrics.csv", "result.json", "wandb_id", ORACLE, ROUNDS)  # what a run can be continued from
TEMPORARY = re.compile(r"\..+\.(\d+)")  # as `files.replacing` names it, with the process that writes it


def checkpoints(out: Path) -> list[Path]:
    """Return the complete checkpoints of a run, oldest first."""
    return sorted(path for path in (out / "checkpoints").glob("[0-9]*") if path.name.isdigit())


def newest_checkpoint(out: Path) -> Path | None:
    """Return the newest complete checkpoint of a run; None if there is none."""
    return max(checkpoints(out), default=None)


def resumed_from(cfg: DictConfig, out: Path) -> Path | None:
    """Return the checkpoint file to continue from: that of `resume`, or the newest intact one in the folder.

    None to start. UsageError if the checkpoint that `resume` names is damaged, or all in the folder are.
    """
    if cfg.resume == "never":
        return None
    if cfg.resume != "auto":
        return _named_checkpoint(cfg) / digests.STATE
    damaged: list[str] = []
    for found in reversed(checkpoints(out)):
        try:
            digests.check_intact(found)
        except ValueError as error:
            damaged.append(str(error))
            continue
        for reason in damaged:
            print(f"warning: {reason}; the run continues from the checkpoint before it, {found}", file=sys.stderr)
        return found / digests.STATE
    if damaged:
        raise UsageError(f"{damaged[0]}; no checkpoint in {out} is intact, so take resume=never to start over")
    return None


def check_output_dir(cfg: DictConfig) -> None:
    """Check the run's own folder, see `check_folder`."""
    check_folder(cfg, Path(cfg.output_dir))


def check_folder(cfg: DictConfig, out: Path) -> None:
    """Raise ValueError if the folder cannot be written, or what is continued is another run than the config's."""
    files.check_writable("output_dir", out)
    if cfg.resume not in ("auto", "never"):
        _check_same(cfg, f"resume={cfg.resume}", _named_checkpoint(cfg))
    if cfg.resume == "never":
        return
    if (out / "config.yaml").is_file():
        _check_config(cfg, out)
    newest = newest_checkpoint(out)
    if cfg.resume == "auto" and newest is not None and digests.is_sealed(newest):
        _check_same(cfg, f"output_dir={out}: {newest.relative_to(out)}", newest)


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
    """Write config.yaml, and remove what a killed process left half written and why an earlier job failed.

    resume=never also removes what an earlier run could be continued from.
    """
    out.mkdir(parents=True, exist_ok=True)
    files.remove(out / ERROR)
    for left in _leftovers(out):
        files.remove(left)
    for name in OWN if cfg.resume == "never" else ():
        files.remove(out / name)
    _write_config(cfg, out)


def keep(cfg: DictConfig, out: Path) -> None:
    """Write config.yaml again if the folder was removed; UsageError if another run writes into it now."""
    if lock.is_taken(out):
        raise UsageError(f"output_dir={out} was removed, and {lock.holder(out) or 'another run'} writes there now")
    if not (out / "config.yaml").is_file():
        print(f"warning: output_dir={out} was removed while the run wrote into it; it is made again", file=sys.stderr)
        out.mkdir(parents=True, exist_ok=True)
        _write_config(cfg, out)


def _write_config(cfg: DictConfig, out: Path) -> None:
    with files.replacing(out / "config.yaml") as unfinished:
        OmegaConf.save(cfg, unfinished, resolve=True)


def _leftovers(out: Path) -> Iterator[Path]:
    """Yield the temporaries of processes that are gone, and checkpoints that were not completed."""
    yield from (out / "checkpoints").glob("*.partial")
    for folder in (out, out / "samples", out / "checkpoints"):
        for path in folder.glob(".*"):
            if (found := TEMPORARY.fullmatch(path.name)) and not _is_alive(int(found[1])):
                yield path


def _is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        return True
    return process != os.getpid()


def _named_checkpoint(cfg: DictConfig) -> Path:
    """Return the checkpoint folder that `resume` names; UsageError if it is none, or is damaged."""
    named = Path(str(cfg.resume)).expanduser()
    if not (named / digests.STATE).is_file():
        raise UsageError(f"resume={cfg.resume} is not auto, never or a checkpoint folder (with run.ckpt in it)")
    try:
        digests.check_intact(named)
    except ValueError as error:
        raise UsageError(f"resume={cfg.resume}: {error}") from None
    return named


def _check_same(cfg: DictConfig, where: str, checkpoint: Path) -> None:
    """Raise UsageError if a checkpoint is of another method, reward, model or LoRA, or has more iterations."""
    seal, now = digests.read_seal(checkpoint), digests.identity(cfg)
    for name, value in now.items():
        if (before := seal["identity"].get(name)) != value:
            raise UsageError(f"{where} is a checkpoint of {name}={before}, which {name}={value} cannot continue")
    if (done := seal["iteration"]) > cfg.iterations:
        raise UsageError(
            f"{where} has done {done} iterations, more than iterations={cfg.iterations}; take iterations={done} or"
            " more, or resume=never to start over"
        )


def _check_config(cfg: DictConfig, out: Path) -> None:
    """Raise UsageError if the folder holds a run of another config."""
    before, now = _fixed(read_recorded(out / "config.yaml")), _fixed(cfg)
    for key in sorted(now | before):
        if before.get(key) != now.get(key):
            raise UsageError(
                f"{key}={now.get(key)} differs from {before.get(key)} of the run in output_dir={out};"
                " take another output_dir, or resume=never to start over"
            )


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
