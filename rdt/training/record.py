"""What a run leaves behind: result.json, samples, the LoRA with its card. Written to temporary names and renamed.

Which frozen weights an evaluation stood on: points are paired with a base only where it is the same base.
"""

import fcntl
import os
import resource
import zlib
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import lightning as L
import torch
from PIL import Image
from torch import Tensor, nn

from rdt import files, result
from rdt.evaluation import Evaluation, Protocol
from rdt.result import BASE, Point, Result, measured, sample_names
from rdt.training import card, loggers
from rdt.training.experiment import Experiment


def fingerprint(*modules: nn.Module) -> str:
    """CRC-32, in hexadecimal, of all tensors that are not trained."""
    crc = 0
    for module in modules:
        tensors = [*module.named_parameters(), *module.named_buffers()]
        for _, tensor in sorted((item for item in tensors if not item[1].requires_grad), key=lambda item: item[0]):
            crc = zlib.crc32(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy(), crc)
    return f"{crc:08x}"


PACKAGES = ("torch", "diffusers", "transformers", "peft", "lightning", "hydra-core", "wandb")


def write(experiment: Experiment, trainer: L.Trainer, out: Path) -> None:
    """Evaluate base and tuned on the held-out prompts, every rank its share, and write the record on rank 0."""
    rank, world, method = trainer.global_rank, trainer.world_size, experiment.method
    method.to(trainer.strategy.root_device)  # Lightning moves it to the host when training ends
    evaluator = experiment.evaluator.to(method.device)
    cost = compute(experiment, world)
    curve = experiment.curve()
    views = {"base": experiment.base} | {name: one.denoiser for name, one in curve.items()}
    done = evaluator.run(method.policy, views, experiment.base, experiment.sampling, rank, world)
    if rank:
        return
    base = point(done["base"], BASE, evaluator.protocol, None)
    points = tuple(point(done[n], one.described, evaluator.protocol, base) for n, one in curve.items())
    names = ["base", *sample_names(points)]
    save_samples(out, list(evaluator.protocol.prompts), dict(zip(names, done.values(), strict=True)))
    found = described(experiment, base, points, cost | {"seconds": method.seconds})
    card.save(method.policy, experiment.cfg, found, out)
    result.write(found, out)
    print(spent(found.compute))
    loggers.conclude(trainer.loggers, experiment.cfg, out)


def point(done: Evaluation, guidance: Mapping[str, Any], protocol: Protocol, base: Point | None) -> Point:
    """Return the point of an evaluation, paired with the base's values per prompt."""
    scores = {name: values.numpy() for name, values in done.scores.items()}
    paired = None if base is None else base.per_prompt
    return measured(scores, done.totals, guidance, protocol.prompts, protocol.images_per_prompt, paired)


def described(experiment: Experiment, base: Point, points: tuple[Point, ...], cost: dict[str, Any]) -> Result:
    """Return the result of a run."""
    cfg, method, evaluator = experiment.cfg, experiment.method, experiment.evaluator
    return Result(
        method=cfg.method.name,
        reward=cfg.reward.name,
        model=cfg.model.name,
        seed=cfg.seed,
        iterations=method.iteration,
        base=base,
        points=points,
        limit=experiment.limit(evaluator.protocol.images_per_prompt),
        weights=fingerprint(method.policy, evaluator.rewards),
        prompts=experiment.prompt_counts,
        compute=cost,
        versions={name: version(name) for name in PACKAGES},
    )


def compute(experiment: Experiment, world: int) -> dict[str, Any]:
    """What training cost on all ranks, in the units methods are compared in.

    A backward pass goes through frozen weights, so it costs what a forward pass does.
    """
    policy = experiment.method.policy
    passes, backward = world * policy.passes, world * policy.backward_passes  # every rank makes the same number
    on_gpu = policy.device.type == "cuda"
    memory = torch.cuda.max_memory_allocated() if on_gpu else 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {
        "images": world * experiment.method.images,
        "network_passes": passes,
        "backward_passes": backward,
        "passes_per_iteration": (passes + backward) / max(1, experiment.method.iteration),
        "tflop": (passes + backward) * policy.flops_per_pass / 1e12,
        "peak_memory_bytes": memory,
        "images_per_second": world * experiment.method.images / experiment.method.seconds,
        "device": torch.cuda.get_device_name() if on_gpu else "cpu",
    }


def spent(cost: Mapping[str, Any]) -> str:
    """A line about what training took."""
    rate, memory = cost["images_per_second"], cost["peak_memory_bytes"] / 2**30
    return f"trained  {cost['images']} images at {rate:.3g} a second, peak memory {memory:.2f} GiB on {cost['device']}"


def save_samples(out: Path, prompts: list[str], evaluations: Mapping[str, Evaluation]) -> None:
    """samples/<name>.png: one prompt per row, equal noise per column; prompts.txt names the rows."""
    (out / "samples").mkdir(parents=True, exist_ok=True)
    rows = min(len(evaluation.grid) for evaluation in evaluations.values())
    (out / "samples" / "prompts.txt").write_text("\n".join(prompts[:rows]) + "\n", encoding="utf-8")
    for name, evaluation in evaluations.items():
        save_image(grid_image(evaluation.grid), out / "samples" / f"{name}.png")


def grid_image(grid: Tensor) -> Image.Image:
    """(rows, columns, 3, H, W) in [0, 1] -> one picture with hairlines between, small images enlarged."""
    rows, columns, _, height, width = grid.shape
    scale = max(1, 64 // height)
    canvas = Image.new("RGB", (columns * (width * scale + 2), rows * (height * scale + 2)), "white")
    pixels = (grid * 255).round().byte().permute(0, 1, 3, 4, 2).numpy()
    for row in range(rows):
        for column in range(columns):
            tile = Image.fromarray(pixels[row, column]).resize(
                (width * scale, height * scale), Image.Resampling.NEAREST
            )
            canvas.paste(tile, (column * (width * scale + 2), row * (height * scale + 2)))
    return canvas


def save_image(image: Image.Image, file: Path) -> None:
    """Write a PNG under a temporary name, then rename."""
    with files.replacing(file) as unfinished:
        image.save(unfinished, format="PNG")


def add_point(folder: Path, new: Point) -> None:
    """Put one more point into a run's result.json; several processes may do so at once."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        result.write(result.read(folder).with_point(new), folder)
    finally:
        os.close(handle)
