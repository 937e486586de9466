"""What a run needs and would cost: the plan that `dry_run=true` prints."""

import math
import os
import subprocess
from collections.abc import Iterator
from typing import Any

from omegaconf import DictConfig, OmegaConf

from rdt import weights
from rdt.config.curve import modules

SECTIONS = ("model.policy", "reward", "method.module", "evaluation.judges", "diversity", "prompts")
CHECKPOINT_KEYS = (
    "source", "checkpoint", "tokenizer", "backbone", "heads", "oracle", "consistency", "companion", "path",
)  # fmt: skip


def plan(cfg: DictConfig) -> str:
    """What the run would do and cost, counted in images and network passes."""
    s, e = cfg.model.sampling, cfg.evaluation
    doubled = 2 if s.guidance_scale != 1 else 1
    points = len(modules(OmegaConf.to_container(cfg.guidance)))
    images = (1 + points) * e.prompts * e.images_per_prompt  # of the base too
    lines = [
        f"method={cfg.method.name} reward={cfg.reward.name} model={cfg.model.name} guidance={cfg.guidance.name}",
        f"output_dir={cfg.output_dir}",
        f"train: {cfg.iterations} updates of {cfg.batch_size} samples on {cfg.devices * cfg.num_nodes} device(s),"
        + (f" {cfg.micro_batch_size} at a time," if cfg.get("micro_batch_size") else "")
        + f" {_steps(cfg)} sampling steps"
        + (f", at most {cfg.max_passes:,} network passes" if cfg.max_passes else ""),
        f"sample for that: {_rollouts(cfg) * doubled:,} network passes, and those of gradients on top",
        f"evaluate: {images} images of {e.prompts} held-out prompts, {images * s.num_steps * doubled:,} network passes",
        *(f"needs {key}: {source} ({_state(source)}{_pin(cfg, key)})" for key, source in sources(cfg)),
        *(f"not here: {lack}" for lack in lacks(cfg)),
        "dry run: nothing was loaded or written",
    ]
    return "\n".join(lines)


def lacks(cfg: DictConfig) -> Iterator[str]:
    """What a run would find missing on this machine."""
    available, what = (found, "GPUs") if (found := gpus()) else (os.cpu_count() or 1, "CPU cores")
    if cfg.devices > available:
        yield f"devices={cfg.devices} exceeds the {available} {what} of this machine"
    if cfg.num_nodes > 1 and "MASTER_ADDR" not in os.environ:
        yield f"num_nodes={cfg.num_nodes} needs MASTER_ADDR, the first node's address, in the environment"


def sources(cfg: DictConfig) -> Iterator[tuple[str, str]]:
    """Every checkpoint the config names, by the first key of a section that does."""
    for section in SECTIONS:
        seen = {None}
        for key, value in leaves(OmegaConf.select(cfg, section), f"{section}."):
            if key.rpartition(".")[2] in CHECKPOINT_KEYS and value not in seen:
                seen.add(value)
                yield key, value


def _rollouts(cfg: DictConfig) -> int:
    """Sampling steps of all trajectories of training; ReFL stops some short."""
    shared = cfg.method.get("replay_ratio", cfg.method.get("updates_per_rollout", 1))  # by so many gradient samples
    return math.ceil(cfg.iterations / shared) * cfg.batch_size * _steps(cfg)


def _steps(cfg: DictConfig) -> int:
    """Of a trajectory in training."""
    return cfg.method.get("num_steps") or cfg.model.sampling.num_steps


def _state(source: str) -> str:
    return "found" if weights.is_local(source) else "not here: the first run fetches it"


def _pin(cfg: DictConfig, key: str) -> str:
    """The digest that stands beside a checkpoint."""
    section, _, name = key.rpartition(".")
    digest = OmegaConf.select(cfg, f"{section}.sha256") if name == "checkpoint" else None
    return f"; loading it checks sha256={digest}" if digest else ""


def leaves(node: DictConfig | None, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted keys and values below a section; lists count as values, interpolations and missing values are left out."""
    if node is None:
        return
    for key in node:
        if OmegaConf.is_missing(node, key) or OmegaConf.is_interpolation(node, key):
            continue
        value = node[key]
        if isinstance(value, DictConfig):
            yield from leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def gpus() -> int:
    """How many GPUs a run may use, from the driver's own tool: no CUDA context, no torch."""
    try:
        listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=10, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return 0
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    return len(listed.splitlines()) if visible is None else len([v for v in visible.split(",") if v])
