"""Writes what a finished run leaves in its folder: result.json, the sample grids, and the LoRA with its model card."""

import fcntl
import os
import resource
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn

from rdt import files, result
from rdt.errors import UsageError
from rdt.evaluation import Evaluation, Protocol
from rdt.methods.base import Method
from rdt.policy import Policy
from rdt.prompts import write_rows
from rdt.result import BASE, Point, Result, measured, sample_names
from rdt.training import card, digests
from rdt.training.experiment import Experiment, Guided
from rdt.training.finished import LORA
from rdt.weights import crc32

PACKAGES = ("torch", "diffusers", "transformers", "peft", "lightning", "hydra-core", "wandb")


def write_record(
    experiment: Experiment, curve: Mapping[str, Guided], evaluations: Mapping[str, Evaluation],
    cost: Mapping[str, Any], out: Path,
) -> None:  # fmt: skip
    """Write all that a run leaves, result.json last, and print a line about what training took.

    `evaluations` holds that of the base under "base", then that of every point of the curve under its label.
    """
    protocol = experiment.evaluator.protocol
    base = point(evaluations["base"], BASE, protocol, None)
    points = tuple(point(evaluations[label], one.described, protocol, base) for label, one in curve.items())
    names = ["base", *sample_names(points)]
    save_samples(out, protocol.prompts, dict(zip(names, evaluations.values(), strict=True)))
    found = result_of(experiment, base, points, dict(cost) | {"seconds": experiment.method.seconds})
    card.write_lora(experiment.policy, experiment.cfg, found, out)
    with _exclusive(out):
        result.write(found, out)
    print(cost_line(found.compute))


def point(evaluation: Evaluation, guidance: Mapping[str, Any], protocol: Protocol, base: Point | None) -> Point:
    """Return the point of an evaluation, paired with the base's values per prompt."""
    scores = {name: values.numpy() for name, values in evaluation.scores.items()}
    paired = None if base is None else base.per_prompt
    return measured(scores, evaluation.totals, guidance, protocol.prompts, protocol.images_per_prompt, paired)


def result_of(experiment: Experiment, base: Point, points: tuple[Point, ...], cost: dict[str, Any]) -> Result:
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
        trained_on=experiment.trained_on,
        prompts=experiment.prompt_counts,
        compute=cost,
        versions={name: version(name) for name in PACKAGES},
    )


def write_standalone(
    experiment: Experiment, curve: Mapping[str, Guided], evaluations: Mapping[str, Evaluation], name: str,
    seconds: float, out: Path,
) -> None:  # fmt: skip
    """Write the samples and result.json of an evaluation that trained nothing, as a run of no iterations."""
    cfg, protocol, policy = experiment.cfg, experiment.evaluator.protocol, experiment.policy
    base = point(evaluations["base"], BASE, protocol, None)
    points = tuple(point(evaluations[label], one.described, protocol, base) for label, one in curve.items())
    save_samples(out, protocol.prompts, dict(zip(["base", *sample_names(points)], evaluations.values(), strict=True)))
    trained = experiment.trained_on
    found = Result(
        method=name,
        reward=next(iter(trained or experiment.rewards)),
        model=cfg.model.name,
        seed=cfg.seed,
        iterations=0,
        base=base,
        points=points,
        weights=fingerprint(policy, experiment.evaluator.rewards),
        trained_on=trained,
        prompts=experiment.prompt_counts,
        compute={"seconds": seconds, "device": device_name(policy)},
        versions={name: version(name) for name in PACKAGES},
    )
    result.write(found, out)


def device_name(policy: Policy) -> str:
    """Return the name of the GPU that a policy is on, or "cpu"."""
    return torch.cuda.get_device_name() if policy.device.type == "cuda" else "cpu"


class KeptChunks:
    """Keeps what an evaluation measured of each chunk of prompts in a folder, so that it can be continued."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def read(self, chunk: range) -> dict[str, Any] | None:
        """Return what was kept of a chunk; None if nothing was, or it cannot be read."""
        file = self._file(chunk)
        try:
            return torch.load(file, map_location="cpu", weights_only=True) if file.is_file() else None
        except Exception:  # an unpickler raises errors of any type on a broken file; the chunk is measured again
            return None

    def write(self, chunk: range, found: dict[str, Any]) -> None:
        """Keep what was measured of a chunk."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with files.replacing(self._file(chunk)) as unfinished:
            torch.save(found, unfinished)

    def _file(self, chunk: range) -> Path:
        return self.folder / f"{chunk.start:06d}-{chunk.stop:06d}.pt"


def add_points(folder: Path, new: Sequence[Point], lora: str) -> Result:
    """Add points of the adapter with digest `lora` to a run's result.json and return the new result.

    Several processes may do so at once. UsageError if the run has written another adapter meanwhile.
    """
    with _exclusive(folder):
        found = result.read(folder)
        if digests.lora_digest(folder / LORA) != lora:
            raise UsageError(
                f"run={folder} was trained further during this evaluation, which is not kept; run it again"
            )
        for one in new:
            found = found.with_point(one)
        result.write(found, folder)
        return found


@contextmanager
def _exclusive(folder: Path) -> Iterator[None]:
    """Wait for, then hold the right to change result.json; it is apart from the lock of a run, which takes hours."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def fingerprint(*modules: nn.Module) -> str:
    """Return the CRC-32, in hexadecimal, of all weights that are not trained.

    A point is paired with a base only if both were evaluated on the same frozen weights.
    """
    crc = f"{0:08x}"
    for module in modules:
        kept = module.snapshots if isinstance(module, Policy) else []  # of the adapter, which is not frozen
        tensors = [*module.named_parameters(), *module.named_buffers()]
        frozen = [
            item for item in tensors if not item[1].requires_grad and not any(f".{name}." in item[0] for name in kept)
        ]
        crc = crc32(frozen, int(crc, 16))
    return crc


def training_cost(method: Method, world: int) -> dict[str, Any]:
    """Return what training has cost so far on all ranks, in the units in which methods are compared.

    A backward pass goes through frozen weights, so it costs as much as a forward pass.
    """
    policy = method.policy
    passes, backward = world * policy.passes, world * policy.backward_passes  # every rank makes the same number
    on_gpu = policy.device.type == "cuda"
    memory = torch.cuda.max_memory_allocated() if on_gpu else 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {
        "images": world * method.images,
        "network_passes": passes,
        "backward_passes": backward,
        "passes_per_iteration": (passes + backward) / max(1, method.iteration),
        "tflop": (passes + backward) * policy.flops_per_pass / 1e12,
        "peak_memory_bytes": memory,
        "images_per_second": world * method.images / method.seconds,
        "device": device_name(policy),
    }


def cost_line(cost: Mapping[str, Any]) -> str:
    """Return a line about what training took."""
    rate, memory = cost["images_per_second"], cost["peak_memory_bytes"] / 2**30
    return f"trained  {cost['images']} images at {rate:.3g} a second, peak memory {memory:.2f} GiB on {cost['device']}"


def save_samples(out: Path, prompts: Sequence[str], evaluations: Mapping[str, Evaluation]) -> None:
    """Write samples/<name>.png, with one prompt per row and equal noise per column, and the rows' prompts.json."""
    (out / "samples").mkdir(parents=True, exist_ok=True)
    rows = min(len(evaluation.grid) for evaluation in evaluations.values())
    write_rows(out / "samples", prompts[:rows])
    for name, evaluation in evaluations.items():
        save_image(grid_image(evaluation.grid), out / "samples" / f"{name}.png")


def grid_image(grid: Tensor) -> Image.Image:
    """Return one picture of images (rows, columns, 3, H, W) in [0, 1], with thin gaps; small images are enlarged."""
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
    """Write a PNG file atomically."""
    with files.replacing(file) as unfinished:
        image.save(unfinished, format="PNG")
