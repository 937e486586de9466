"""What a run needs and what it would cost: the plan that `dry_run=true` prints.

A method's yaml may state `plan`: the `updates_per_rollout` (1 if it does not), the `num_steps` and `guidance_scale`
of a training rollout, and the `evaluation_scale` of guidance for the tuned policy (the model's if it does not). A
method that samples images once instead, and keeps them on disk, states `images` of each of `prompts` training
prompts, in each of `rounds`. A method whose updates take a fixed number of passes states `times`, for each image, and
the `views` that run at each of them: those whose value is not 0, false or null, and with them the `later_views` of
all updates of a rollout but the first. `kl_nats` has such a value if the method logs the KL to its reference, so that
constraint.kl may bound it. `update` names what an update computes (rdt/config/work.py), from which hours and memory
are reckoned. The constructor does not get this section.
"""

import math
import os
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from omegaconf import DictConfig, OmegaConf

from rdt import weights
from rdt.config import compose
from rdt.config.curve import points
from rdt.config.hardware import Passes, lines, update_of
from rdt.config.passes import Evaluated, foreseen
from rdt.config.published import download

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
        *lines(cfg, passes_in_all(cfg), update_of(cfg)),
        *(f"needs {key}: {source} ({_state(source)}{_pin(cfg, key)})" for key, source in sources(cfg)),
        *_to_fetch(cfg),
        *([] if cfg.get("hardware") else (f"not here: {missing}" for missing in missing_devices(cfg))),
        "dry run: nothing was loaded or written",
    ])  # fmt: skip


def evaluation_plan(cfg: DictConfig) -> str:
    """Return what an evaluation that trains nothing would do and cost, in images and network passes."""
    return "\n".join([
        f"model={cfg.model.name} lora={cfg.lora} guidance={cfg.guidance.name}",
        f"output_dir={cfg.output_dir}",
        _evaluated(cfg),
        *(f"needs {key}: {source} ({_state(source)}{_pin(cfg, key)})" for key, source in sources(cfg)),
        *_to_fetch(cfg),
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
    passes, updating = _passes(_scale(cfg, "guidance_scale")), _update_passes(cfg)
    return [
        f"train: {cfg.iterations} updates of {cfg.batch_size} samples on {cfg.devices * cfg.num_nodes} device(s),"
        + (f" {cfg.micro_batch_size} at a time," if cfg.micro_batch_size else "")
        + f" {_steps(cfg)} sampling steps"
        + (f", at most {cfg.max_passes:,} network passes" if cfg.max_passes else ""),
        f"sample for that: {_rollouts(cfg) * _steps(cfg) * passes:,} network passes"
        + ("" if updating else ", and those of gradients on top"),
        *([f"learn from that: {updating * passes:,} network passes, and those backward on top"] if updating else []),
        *_kept_images(cfg),
        *_watched(cfg),
        _evaluated(cfg),
    ]


def _evaluated(cfg: DictConfig) -> str:
    """Return the line on the evaluation of the base and of the points of the guidance."""
    return (
        f"evaluate: {evaluated_images(cfg)} images of {cfg.evaluation.prompts} held-out prompts,"
        f" {evaluation_passes(cfg):,} network passes"
    )


def evaluation_passes(cfg: DictConfig) -> int:
    """Return the network passes of the evaluation of the base and of every point, KL included."""
    evaluation, sampling = cfg.evaluation, cfg.model.sampling
    etas = sampling.eta if OmegaConf.is_list(sampling.eta) else [sampling.eta]
    what = Evaluated(
        evaluation.prompts, evaluation.images_per_prompt, evaluation.kl_images if any(etas) else 0,
        evaluation.batch_size, sampling.num_steps, _passes(cfg.model.sampling.guidance_scale),
    )  # fmt: skip
    curve = points(OmegaConf.to_container(cfg.guidance))
    seen = foreseen(curve, cfg.guidance.get("passes") or "tuned", sampling.num_steps)
    rows = _passes(_scale(cfg, "evaluation_scale"))
    return what.passes([replace(point, rows=point.rows or rows) for point in seen])


def evaluated_images(cfg: DictConfig) -> int:
    """Return how many images the evaluation keeps, of the base and of every point of the guidance."""
    count = 1 + len(points(OmegaConf.to_container(cfg.guidance)))
    return count * cfg.evaluation.prompts * cfg.evaluation.images_per_prompt


def passes_in_all(cfg: DictConfig) -> Passes:
    """Return what training and all evaluations sample, the small ones during training included."""
    evaluation, each = cfg.evaluation, cfg.model.sampling.num_steps * _passes(cfg.model.sampling.guidance_scale)
    small = cfg.iterations // evaluation.every * evaluation.small_prompts if evaluation.every else 0
    few, evaluated = small * evaluation.images_per_prompt, evaluated_images(cfg)
    rolled = _rollouts(cfg) * _steps(cfg) * _passes(_scale(cfg, "guidance_scale"))
    return Passes(rolled, evaluation_passes(cfg) + few * each, evaluated + few)


def _to_fetch(cfg: DictConfig) -> Iterator[str]:
    """Yield how many GB the first run downloads, and which sources have a size that is not known."""
    missing = {source: key for key, source in sources(cfg) if not weights.is_local(source)}
    sizes = {source: download(key, source) for source, key in missing.items() if not source.startswith("dataset:")}
    if not sizes:
        return
    unknown = [source for source, size in sizes.items() if size is None]
    more = f", and {', '.join(unknown)}, of unknown size" if unknown else ""
    yield f"fetch: {sum(size or 0 for size in sizes.values()):.3g} GB of weights{more}"


def _watched(cfg: DictConfig) -> Iterator[str]:
    """Yield the line on the pictures that are drawn while training, if there are any."""
    every, evaluation = cfg.trainer.sample_every, cfg.evaluation
    if every:
        rows, columns = evaluation.grid
        each = min(rows, evaluation.prompts) * min(columns, evaluation.images_per_prompt)
        images = each * (1 + cfg.iterations // every)
        passes = images * cfg.model.sampling.num_steps * _passes(_scale(cfg, "evaluation_scale"))
        yield f"draw while training: {images:,} images, {each} every {every} iterations, {passes:,} network passes"


def _scale(cfg: DictConfig, key: str) -> float:
    """Return the scale of classifier-free guidance that the method's `plan` states, or else the model's."""
    scale = OmegaConf.select(cfg, f"method.plan.{key}")
    return cfg.model.sampling.guidance_scale if scale is None else scale


def _passes(guidance_scale: float) -> int:
    """Return the network passes of a sampling step."""
    return 2 if guidance_scale != 1 else 1


def _update_passes(cfg: DictConfig) -> int:
    """Return the conditional passes forward of all updates, as the method's `plan` states them; 0 if it does not."""
    every = _stated(cfg, "updates_per_rollout", 1)
    views, later = (_counted(OmegaConf.select(cfg, f"method.plan.{key}")) for key in ("views", "later_views"))
    updates_after_the_first = cfg.iterations - math.ceil(cfg.iterations / every)
    updates = cfg.iterations * views + updates_after_the_first * later
    return updates * (cfg.batch_size // every) * _stated(cfg, "times", 0)


def _counted(section: DictConfig | None) -> int:
    """Return how many values of a section are not 0, false or null."""
    return sum(map(bool, section.values())) if section else 0


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


def _stated(cfg: DictConfig, key: str, default: Any) -> Any:
    value = OmegaConf.select(cfg, f"method.plan.{key}")
    return default if value is None else value


def _state(source: str) -> str:
    return "found" if weights.is_local(source) else "not here: the first run fetches it"


def _pin(cfg: DictConfig, key: str) -> str:
    """Return the digest beside a checkpoint, in words."""
    section, _, name = key.rpartition(".")
    digest = OmegaConf.select(cfg, f"{section}.sha256") if name == "checkpoint" else None
    return f"; loading it checks sha256={digest}" if digest else ""
