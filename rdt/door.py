"""What is refused before anything is loaded or written, and the plan that `dry_run=true` prints."""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hydra import compose
from omegaconf import DictConfig, ListConfig, OmegaConf

from rdt import checkpoints
from rdt.errors import UsageError

CHOICES = {
    "precision": ("fp32", "bf16"),
    "method.look_ahead": ("consistency", "tweedie", "n_step"),
    "method.replay": ("prioritized", "uniform", "on_policy"),
}
POSITIVE = ("iterations", "batch_size", "devices", "num_nodes", "model.sampling.num_steps", "model.lora.rank",
            "evaluation.prompts", "evaluation.images_per_prompt", "evaluation.batch_size", "trainer.checkpoint_every",
            "method.replay_ratio", "method.capacity", "method.lr")  # fmt: skip


def check(cfg: DictConfig, hydra_config: Any) -> None:
    """UsageError, in one line with the key and the value, where the config cannot be run."""
    _types(cfg, hydra_config)
    for key, allowed in CHOICES.items():
        value = OmegaConf.select(cfg, key)
        if value is not None and value not in allowed:
            raise UsageError(f"{key}={value} is not one of {', '.join(allowed)}")
    for key in POSITIVE:
        value = OmegaConf.select(cfg, key)
        if value is not None and value <= 0:
            raise UsageError(f"{key}={value} must be greater than 0")
    _devices(cfg)
    if cfg.batch_size % cfg.devices:
        raise UsageError(f"batch_size={cfg.batch_size} does not divide over devices={cfg.devices}")
    for _, source in _sources(cfg):
        checkpoints.locate(source)
    for key in ("train_file", "held_out_file"):
        if key in cfg.prompts and not Path(cfg.prompts[key]).is_file():
            raise UsageError(f"prompts.{key}={cfg.prompts[key]} does not exist; give a text file, one prompt per line")
    _writable(Path(cfg.output_dir))
    if cfg.resume not in ("auto", "never") and not (Path(cfg.resume) / "run.ckpt").is_file():
        raise UsageError(f"resume={cfg.resume} is not auto, never or a checkpoint folder (with run.ckpt in it)")


def plan(cfg: DictConfig) -> str:
    """What the run would do and cost, counted in images and network passes."""
    s, e = cfg.model.sampling, cfg.evaluation
    doubled = 2 if s.guidance_scale != 1 else 1
    images = 2 * e.prompts * e.images_per_prompt
    lines = [
        f"method={cfg.method.name} reward={cfg.reward.name} model={cfg.model.name} guidance={cfg.guidance.name}",
        f"output_dir={cfg.output_dir}",
        f"train: {cfg.iterations} updates of {cfg.batch_size} samples on {cfg.devices * cfg.num_nodes} device(s),"
        f" {s.num_steps} sampling steps",
        f"evaluate: {images} images of {e.prompts} held-out prompts, {images * s.num_steps * doubled:,} network passes",
        *(f"needs {key}: {source} (found)" for key, source in _sources(cfg)),
        "dry run: nothing was loaded or written",
    ]
    return "\n".join(lines)


def _types(cfg: DictConfig, hydra_config: Any) -> None:
    """A value must have the type of the default it replaces; compared with the same groups composed bare."""
    groups = [o for o in hydra_config.overrides.task if _is_group(o, hydra_config)]
    default = compose(config_name=hydra_config.job.config_name, overrides=groups)
    for key, was in _leaves(default):
        now = OmegaConf.select(cfg, key)
        if was is None or now is None:
            continue
        if isinstance(was, bool) != isinstance(now, bool) or not isinstance(now, _accepted(was)):
            raise UsageError(f"{key}={now} is {_name(now)}, expected {_name(was)} such as {was}")


def _is_group(override: str, hydra_config: Any) -> bool:
    return override.lstrip("+~").split("=")[0] in hydra_config.runtime.choices


def _accepted(value: Any) -> tuple[type, ...]:
    return (int, float) if isinstance(value, float) else (type(value),)


def _name(value: Any) -> str:
    return {bool: "a truth value", int: "an integer", float: "a number", str: "a text"}.get(type(value), "a list")


def _leaves(node: DictConfig, prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key in node:
        name = f"{prefix}{key}"
        if OmegaConf.is_missing(node, key) or OmegaConf.is_interpolation(node, key):
            continue
        value = node[key]
        if isinstance(value, DictConfig):
            yield from _leaves(value, f"{name}.")
        elif not isinstance(value, ListConfig):
            yield name, value


def _sources(cfg: DictConfig) -> Iterator[tuple[str, str]]:
    """Every checkpoint the config names."""
    for section in ("model.policy", "reward.module", "evaluation.judges", "diversity"):
        for key, value in _leaves(OmegaConf.select(cfg, section)):
            if key.split(".")[-1] in ("source", "checkpoint", "tokenizer", "oracle", "consistency"):
                yield f"{section}.{key}", value


def _devices(cfg: DictConfig) -> None:
    """GPUs are counted by the driver's own tool where there is one, so that no weights or CUDA context are loaded."""
    gpus = _gpus()
    available, what = (gpus, "GPUs") if gpus else (os.cpu_count() or 1, "CPU cores")
    if cfg.devices > available:
        raise UsageError(f"devices={cfg.devices} exceeds the {available} {what} of this machine")


def _gpus() -> int:
    try:
        listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=10, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return 0
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    return len(listed.splitlines()) if visible is None else len([v for v in visible.split(",") if v])


def _writable(folder: Path) -> None:
    nearest = next(parent for parent in (folder, *folder.absolute().parents) if parent.exists())
    if not nearest.is_dir() or not os.access(nearest, os.W_OK):
        raise UsageError(f"output_dir={folder} cannot be written: {nearest} is not a writable folder")
