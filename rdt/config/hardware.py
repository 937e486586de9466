"""What a run of a real model costs on given GPUs: hours, memory and disk, reckoned before anything is loaded.

The operations of networks are counted, not guessed: `python experiments/real/count.py write` counts them on torch's
meta device into counted.json, with adapters of the rank that a model's yaml states. A GPU's rate is its data sheet's
times the efficiency that conf/hardware states, so hours are estimates. Rewards, embedders and text encoders are left
out of the hours, and so is the exchange of gradients, which is one sum over the adapter per update.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from rdt.config import compose
from rdt.config.published import scorer_bytes
from rdt.config.rules import without_rules
from rdt.config.work import Update
from rdt.targets import conf_dir, options

COUNTED = Path(__file__).with_name("counted.json")
USUAL = "h100"
RESERVED = 2 * 2**30  # bytes for CUDA, its libraries' workspaces and the block that is recomputed
TRAINED = 6 * 4  # bytes per adapter weight: the weight, Adam's two moments, the gradient and two sums of it
SAVED = 3 * 4  # bytes per adapter weight in a checkpoint: the weight and Adam's two moments
GIB = 2**30


@dataclass(frozen=True)
class Passes:
    """Holds what a run samples, over all devices: network rows and decoded images."""

    trained: float  # rows of training rollouts
    evaluated: float  # rows of evaluations
    images: float  # of evaluations


@dataclass(frozen=True)
class Counted:
    """Holds the counted cost of one row through a network and of one image through its decoder."""

    forward: float  # operations
    back: float  # operations, those of recomputed blocks included
    kept: float  # bytes kept from the forward to the backward pass
    weights: float  # bytes, network and autoencoder
    adapter: int  # weights that are trained
    condition: float  # bytes of a prompt's condition
    decode: float  # operations
    climb: float  # operations of the decoder's backward pass
    image: float  # bytes that the decoder keeps for it


def lines(cfg: DictConfig, passes: Passes, update: Update | None) -> Iterator[str]:
    """Yield what the run costs on the chosen hardware, or on one H100's if none is chosen.

    A model that was not counted has no line, unless a hardware was chosen; then the line says what is missing.
    """
    found, reason = counted(cfg)
    if found is None:
        yield from [f"hardware: no estimate, since {reason}"] if cfg.get("hardware") else []
        return
    hardware, world = hardware_of(cfg), cfg.devices * cfg.num_nodes
    rate = hardware[_precision(cfg)]
    yield (
        f"hardware: {world} x {hardware.title}, {rate:g} TFLOP/s in {cfg.precision} of which"
        f" {100 * hardware.efficiency:g} % are assumed to be reached; what follows is counted, not measured"
    )
    yield from _update(cfg, found, passes, update)
    yield f"hours: {_hours(cfg, found, passes, update)}"
    yield f"memory a GPU: {_memory(cfg, found, update)}"
    yield f"disk: {_disk(cfg, found, update)}"


def misfit(cfg: DictConfig) -> Iterator[str]:
    """Yield that the run does not fit into the memory of the hardware that was chosen, and what would."""
    hardware = cfg.get("hardware")
    found = counted(cfg)[0] if hardware else None
    if found is None:
        return
    update = update_of(cfg)
    share = cfg.batch_size // (cfg.devices * cfg.num_nodes)
    need = sum(held_bytes(cfg, found, update).values()) / GIB
    if need <= hardware.memory:
        return
    sizes = [size for size in range(_together(cfg) - 1, 0, -1) if share % size == 0]
    smaller = (size for size in sizes if sum(held_bytes(cfg, found, update, size).values()) / GIB <= hardware.memory)
    size = next(smaller, None)
    larger = [name for name in options("hardware") if hardware_named(name).memory >= need]
    cures = [f"micro_batch_size={size}"] * (size is not None) + [f"hardware={name}" for name in larger]
    yield (
        f"hardware={hardware.name} has {hardware.memory:g} GiB a GPU, and model={cfg.model.name}"
        f" method={cfg.method.name} takes at least {need:.1f}" + (f"; take {' or '.join(cures)}" if cures else "")
    )


def hardware_of(cfg: DictConfig) -> DictConfig:
    """Return the hardware that the config chose, or one H100's."""
    return cfg.get("hardware") or hardware_named(USUAL)


def hardware_named(name: str) -> DictConfig:
    """Return a hardware as conf/ states it."""
    return without_rules(OmegaConf.load(Path(conf_dir(), "hardware", f"{name}.yaml")))


def update_of(cfg: DictConfig) -> Update | None:
    """Return what an update of the config's method computes; None if its yaml does not state that."""
    section = OmegaConf.select(cfg, "method.plan.update")
    return compose.built_now(section)(cfg.batch_size, rows_of(cfg)) if section else None


def rows_of(cfg: DictConfig) -> int:
    """Return the network rows of a sample at a sampling step."""
    return 2 if cfg.model.sampling.guidance_scale != 1 else 1


def counted(cfg: DictConfig) -> tuple[Counted | None, str]:
    """Return the counted cost of the config's model, or None and why there is none."""
    table = json.loads(COUNTED.read_text(encoding="utf-8"))
    model, side = table["models"].get(cfg.model.name), str(OmegaConf.select(cfg, "model.policy.setup.resolution"))
    if model is None:
        return None, f"model={cfg.model.name} was not counted"
    if side not in model["sides"]:
        return None, f"model={cfg.model.name} was counted at {' and '.join(model['sides'])} px, not at {side}"
    if not OmegaConf.select(cfg, "model.policy.checkpointing"):
        return None, "networks were counted with model.policy.checkpointing=true"
    return _counted(cfg, table, model, side), ""


def _counted(cfg: DictConfig, table: dict[str, Any], model: dict[str, Any], side: str) -> Counted:
    """Return the cost at a side in pixels; the table holds TFLOP, MiB of bf16 activations, and numbers of weights."""
    width = 2 if _precision(cfg) == "bf16" else 4
    row = model["sides"][side]
    image = table["decoders"][side]["sliced" if cfg.model.policy.setup.slicing else "whole"]
    return Counted(
        forward=1e12 * row["forward"], back=1e12 * row["back"], kept=2**20 * row["kept"] * width / 2,
        weights=width * (model["parameters"] + table["autoencoder"]), adapter=cfg.model.lora.rank * model["adapter"],
        condition=width * model["condition"], decode=1e12 * image["forward"], climb=1e12 * image["back"],
        image=2**20 * image["kept"] * width / 2,
    )  # fmt: skip


def held_bytes(cfg: DictConfig, found: Counted, update: Update | None, size: int | None = None) -> dict[str, float]:
    """Return the bytes that a GPU holds when a backward pass begins, by kind; `size` replaces the micro-batch's."""
    share = (size or _together(cfg)) / cfg.batch_size
    sources = ((key, value) for section in ("reward", "evaluation.judges") for key, value in _texts(cfg, section))
    held = update.held * found.kept + update.climbed * found.image if update else 0
    return {
        "weights": found.weights, "adapter and its optimiser": TRAINED * found.adapter,
        "activations": share * held, "trajectories": _stored(cfg, update) / (cfg.devices * cfg.num_nodes),
        "scorers": scorer_bytes(sources), "reserve": RESERVED,
    }  # fmt: skip


def _update(cfg: DictConfig, found: Counted, passes: Passes, update: Update | None) -> Iterator[str]:
    """Yield the images and the operations of an update."""
    world = cfg.devices * cfg.num_nodes
    if update is None:
        yield f"an update: not counted, since method={cfg.method.name} states no plan.update; hours are without it"
        return
    sampled = passes.trained / cfg.iterations / (rows_of(cfg) * _steps(cfg))
    work = _operations(found, update) + passes.trained / cfg.iterations * found.forward
    seconds = work / world / _speed(cfg)
    yield (
        f"an update: {_shown(sampled)} images sampled, {_shown(update.forward)} rows forward and {_shown(update.back)}"
        f" back of {cfg.batch_size:,} samples, {_together(cfg)} on a GPU at a time; {_shown(work / world / 1e12)} TFLOP"
        f" and {seconds:.3g} s a GPU"
    )


def _hours(cfg: DictConfig, found: Counted, passes: Passes, update: Update | None) -> str:
    """Return the hours of a run and of its phases, and GPU hours."""
    world = cfg.devices * cfg.num_nodes
    work = {
        "sampling": passes.trained * found.forward,
        "updates": cfg.iterations * _operations(found, update) if update else 0,
        "evaluation": passes.evaluated * found.forward + passes.images * found.decode,
    }
    hours = {name: operations / world / _speed(cfg) / 3600 for name, operations in work.items()}
    total = sum(hours.values())
    shares = ", ".join(f"{name} {value:.2g}" for name, value in hours.items())
    return f"{total:.2g} ({shares}), {total * world:.3g} GPU hours"


def _memory(cfg: DictConfig, found: Counted, update: Update | None) -> str:
    """Return the GiB of a GPU and what they hold."""
    held, hardware = held_bytes(cfg, found, update), hardware_of(cfg)
    total = sum(held.values()) / GIB
    shares = ", ".join(f"{name} {value / GIB:.2g}" for name, value in held.items() if value)
    fit = "" if total <= hardware.memory else ", which does not fit"
    return f"at least {total:.1f} of {hardware.memory:g} GiB{fit} ({shares})"


def _disk(cfg: DictConfig, found: Counted, update: Update | None) -> str:
    """Return the GB of the checkpoints that a run keeps and the MB of a thousand prompts' conditions."""
    keep = cfg.trainer.keep or max(1, cfg.iterations // cfg.trainer.checkpoint_every)
    each = SAVED * found.adapter + _stored(cfg, update)
    return (
        f"{(keep * each + 4 * found.adapter) / 1e9:.2g} GB for {keep} checkpoints and the LoRA,"
        f" {found.condition / 1e6:.2g} MB for each new prompt's condition in {cfg.cache}"
    )


def _operations(found: Counted, update: Update) -> float:
    """Return the operations of an update over all devices."""
    rows = update.forward * found.forward + update.back * found.back
    return rows + update.decoded * found.decode + update.climbed * found.climb


def _stored(cfg: DictConfig, update: Update | None) -> float:
    """Return the bytes of the trajectories that stay in memory, over all devices."""
    latent = cfg.model.latent
    elements = latent.channels * (latent.image // latent.stride) ** 2
    return update.stored * (_steps(cfg) + 1) * 4 * elements if update else 0


def _together(cfg: DictConfig) -> int:
    """Return how many samples a GPU puts through the networks at once."""
    share = max(1, cfg.batch_size // (cfg.devices * cfg.num_nodes))
    return min(cfg.micro_batch_size or share, share)


def _speed(cfg: DictConfig) -> float:
    """Return the operations per second of a GPU."""
    hardware = hardware_of(cfg)
    return hardware[_precision(cfg)] * hardware.efficiency * 1e12


def _shown(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _precision(cfg: DictConfig) -> str:
    return OmegaConf.select(cfg, "model.policy.setup.precision") or cfg.precision


def _steps(cfg: DictConfig) -> int:
    return OmegaConf.select(cfg, "method.plan.num_steps") or cfg.model.sampling.num_steps


def _texts(cfg: DictConfig, section: str) -> Iterator[tuple[str, str]]:
    """Yield the dotted keys and texts below a section."""
    for key, value in (OmegaConf.select(cfg, section) or {}).items():
        if isinstance(value, DictConfig):
            yield from _texts(cfg, f"{section}.{key}")
        elif isinstance(value, str):
            yield f"{section}.{key}", value
