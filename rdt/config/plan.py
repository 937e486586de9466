"""What a run needs and what it would cost: the plan that `dry_run=true` prints.

A method's yaml may state `plan`: the `updates_per_rollout` (1 if it does not) and the `num_steps` of a training rollout
(the model's if it does not). A method that samples images once instead, and keeps them on disk, states `images` of each
of `prompts` training prompts, in each of `rounds`. The constructor does not get this section.
"""

import math
import os
import subprocess
from collections.abc import Iterator
from typing import Any

from omegaconf import DictConfig, OmegaConf

from rdt import weights
from rdt.config import compose
from rdt.config.curve import points

SECTIONS = ("model.policy", "reward", "method", "evaluation.judges", "diversity", "prompts")  # may name files
FILE_KEYS = (  # the names of keys whose values are files or repositories: a local path has no mark of its own
    "source", "checkpoint", "tokenizer", "backbone", "heads", "oracle", "consistency", "companion", "path",
)  # fmt: skip


def plan(cfg: DictConfig) -> str:
    """Return what the run would do and cost, in images and network passes."""
    return "\n".join([
        f"method={cfg.method.name} reward={cfg.reward.name} model={cfg.model.name} guidance={cfg.guidance.name}",
        f"output_dir={cfg.output_dir}",
        *_work(cfg),
        *(f"needs {key}: {source} ({_state(source)}{_pin(cfg, key)})" for key, source in sources(cfg)),
        *(f"not here: {missing}" for missing in missing_devices(cfg)),
        "dry run: nothing was loaded or written",
    ])  # fmt: skip


def evaluation_plan(cfg: DictConfig) -> str:
    """Return what an evaluation that trains nothing would do and cost, in images and network passes."""
    return "\n".join([
        f"model={cfg.model.name} lora={cfg.lora} guidance={cfg.guidance.name}",
        f"output_dir={cfg.output_dir}",
        _evaluated(cfg),
        *(f"needs {key}: {source} ({_state(source)}{_pin(cfg, key)})" for key, source in sources(cfg)),
        "dry run: nothing was loaded or written",
    ])  # fmt: skip


def missing_devices(cfg: DictConfig) -> Iterator[str]:
    """Yield what a run would find missing on this machine."""
    available, kind = (found, "GPUs") if (found := gpus()) else (os.cpu_count() or 1, "CPU cores")
    if cfg.devices > available:
        yield f"devices={cfg.devices} exceeds the {available} {kind} of this machine"
    if cfg.num_nodes > 1 and not os.environ.get("MASTER_ADDR"):
        yield f"num_nodes={cfg.num_nodes} needs MASTER_ADDR, the first node's address, in the environment"


def gpus() -> int:
    """Return how many GPUs a run may use, as nvidia-smi counts them: without a CUDA context, and without torch."""
    try:
        listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=10, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return 0
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    return len(listed.splitlines()) if visible is None else len([v for v in visible.split(",") if v])


def sources(cfg: DictConfig) -> Iterator[tuple[str, str]]:
    """Yield every file or repository that the config names, once per section, with the first key that names it."""
    for section in SECTIONS:
        seen = {None}
        for key, value in leaves(OmegaConf.select(cfg, section), f"{section}."):
            if key.rpartition(".")[2] in FILE_KEYS and value not in seen:
                seen.add(value)
                yield key, value


def leaves(node: DictConfig | None, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield dotted keys and values below a section, lists as values, without interpolations and missing values."""
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


def _work(cfg: DictConfig) -> list[str]:
    """Return the lines on training and evaluation."""
    passes = _passes(cfg)
    return [
        f"train: {cfg.iterations} updates of {cfg.batch_size} samples on {cfg.devices * cfg.num_nodes} device(s),"
        + (f" {cfg.micro_batch_size} at a time," if cfg.micro_batch_size else "")
        + f" {_steps(cfg)} sampling steps"
        + (f", at most {cfg.max_passes:,} network passes" if cfg.max_passes else ""),
        f"sample for that: {_rollouts(cfg) * _steps(cfg) * passes:,} network passes, and those of gradients on top",
        *_kept_images(cfg),
        _evaluated(cfg),
    ]


def _evaluated(cfg: DictConfig) -> str:
    """Return the line on the evaluation of the base and of the points of the guidance."""
    evaluation = cfg.evaluation
    curve = points(OmegaConf.to_container(cfg.guidance))
    sampled = 1 + sum(int(point.get("candidates", 1)) for point in curve)  # of which one image each is kept
    images = sampled * evaluation.prompts * evaluation.images_per_prompt
    return (
        f"evaluate: {images} images of {evaluation.prompts} held-out prompts,"
        f" {images * cfg.model.sampling.num_steps * _passes(cfg):,} network passes"
    )


def _passes(cfg: DictConfig) -> int:
    """Return the network passes of a sampling step."""
    return 2 if cfg.model.sampling.guidance_scale != 1 else 1


def _rollouts(cfg: DictConfig) -> int:
    """Return how many trajectories training samples, as the method's `plan` states; ReFL stops some of them early."""
    if images := _stated(cfg, "images", 0):
        return _stated(cfg, "rounds", 1) * _prompts(cfg) * images
    return math.ceil(cfg.iterations / _stated(cfg, "updates_per_rollout", 1)) * cfg.batch_size


def _prompts(cfg: DictConfig) -> int:
    """Return how many prompts have images, at most as many as there are for training, if they can be read here."""
    most, train = _stated(cfg, "prompts", 1), cfg.prompts.train
    path = str(train.get("path") or "")
    if path.startswith(tuple(f"{scheme}:" for scheme in weights.SCHEMES)) or not str(train._target_).startswith("rdt."):
        return most
    return min(most, len(set(compose.built_now(train))))


def _kept_images(cfg: DictConfig) -> Iterator[str]:
    """Yield what images that are sampled once take of the disk, if the model states how large a latent is."""
    latent = cfg.model.get("latent")
    if _stated(cfg, "images", 0) and latent and latent.image:
        images = _rollouts(cfg)
        size = images * 4 * latent.channels * (latent.image // latent.stride) ** 2
        yield (
            f"keep on disk: {images:,} images, {size / 1e6:,.0f} MB, in {cfg.method.samples}; those that are there"
            " are not sampled again"
        )


def _steps(cfg: DictConfig) -> int:
    """Return the steps of a trajectory in training."""
    return _stated(cfg, "num_steps", cfg.model.sampling.num_steps)


def _stated(cfg: DictConfig, key: str, default: int) -> int:
    return OmegaConf.select(cfg, f"method.plan.{key}") or default


def _state(source: str) -> str:
    return "found" if weights.is_local(source) else "not here: the first run fetches it"


def _pin(cfg: DictConfig, key: str) -> str:
    """Return the digest beside a checkpoint, in words."""
    section, _, name = key.rpartition(".")
    digest = OmegaConf.select(cfg, f"{section}.sha256") if name == "checkpoint" else None
    return f"; loading it checks sha256={digest}" if digest else ""
