"""Images of the policy while it trains: fixed prompts and noise every few iterations, in `samples/<iteration>.png`.

Prompts and noise are those of the grids samples/base.png and samples/tuned.png, so that all of them compare image by
image. Images depend on the adapter alone: a resumed run draws those of an iteration again as they were.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import lightning as L
import torch
import torch.distributed as dist
from torch import Tensor

from rdt import files
from rdt.evaluation import Protocol
from rdt.methods.base import Method
from rdt.policy import Denoiser
from rdt.prompts import write_rows
from rdt.rollout import sampled
from rdt.stream import Batch
from rdt.training.average import evaluated
from rdt.training.boards import PictureLogger
from rdt.training.record import grid_image, save_image

LARGEST = 256  # pixels across an image of the picture; larger ones are reduced
NAME = re.compile(r"\d{6,}\.png")
LOGGED = "samples/training"  # the name of the pictures in loggers


class TrainingSamples(L.Callback):
    """Draws the grid of the protocol's prompts before the first iteration and after every `every`-th; 0: never."""

    def __init__(self, protocol: Protocol, guided: Denoiser, every: int, out: Path) -> None:
        self.protocol, self.guided, self.every, self.out = protocol, guided, every, out
        self.rows = min(protocol.grid[0], len(protocol.prompts))
        self.columns = min(protocol.grid[1], protocol.images_per_prompt)

    def on_train_start(self, trainer: L.Trainer, method: L.LightningModule) -> None:
        """Remove the pictures of iterations that run again; draw one of an untrained adapter."""
        if trainer.is_global_zero:
            for picture in training_pictures(self.out):
                if int(picture.stem) > method.iteration or not method.iteration:
                    files.remove(picture)
        if self.every and not method.iteration:
            self.draw(trainer, method, 0)

    def on_train_batch_end(
        self, trainer: L.Trainer, method: L.LightningModule, outputs: Any, batch: Batch, batch_idx: int
    ) -> None:
        """Draw if this iteration is due."""
        if self.every and (batch.iteration + 1) % self.every == 0:
            self.draw(trainer, method, batch.iteration + 1)

    def draw(self, trainer: L.Trainer, method: Method, iteration: int) -> None:
        """Sample, write and log one picture; a collective that all ranks must call."""
        passes = method.policy.passes  # restored below, since looking is not training compute
        with method.policy.standing_in(evaluated(method.policy)):
            grid = self.grid(method, trainer.global_rank, trainer.world_size)
        method.policy.passes = passes
        if not trainer.is_global_zero:
            return
        folder = self.out / "samples"
        folder.mkdir(parents=True, exist_ok=True)
        picture = grid_image(reduced(grid))
        write_rows(folder, self.protocol.prompts[: self.rows])
        save_image(picture, folder / f"{iteration:06d}.png")
        for logger in trainer.loggers:
            if isinstance(logger, PictureLogger):
                logger.log_picture(LOGGED, picture, iteration)

    @torch.no_grad()
    def grid(self, method: Method, rank: int, world: int) -> Tensor:
        """Return the images (rows, columns, 3, H, W) in [0, 1]; each rank samples its share of them."""
        places = [(row, column) for row in range(self.rows) for column in range(self.columns)]
        own = places[rank * len(places) // world : (rank + 1) * len(places) // world]
        images = [image for part in self._parts(own) for image in self._sampled(method, part)]
        if dist.is_initialized():
            shares: list[list[Tensor]] = [[] for _ in range(world)]
            dist.all_gather_object(shares, images)
            images = [image for share in shares for image in share]
        return torch.stack(images).unflatten(0, (self.rows, self.columns))

    def _parts(self, places: list[tuple[int, int]]) -> Iterator[list[tuple[int, int]]]:
        """Yield the places in batches of the evaluation's size."""
        size = self.protocol.batch_size
        for first in range(0, len(places), size):
            yield places[first : first + size]

    def _sampled(self, method: Method, places: list[tuple[int, int]]) -> list[Tensor]:
        """Return the images (3, H, W) of some rows and columns, on the host."""
        protocol, policy = self.protocol, method.policy
        prompts = [protocol.prompts[row] for row, _ in places]
        indices = [row * protocol.images_per_prompt + column for row, column in places]
        noise = policy.noise(protocol.seed, "evaluation", indices)
        clean = sampled(policy, self.guided, prompts, noise, method.sampling).clean
        return list(policy.decode(clean).cpu())


def training_pictures(out: Path) -> list[Path]:
    """Return the pictures of a training, in the order of their iterations."""
    found = [path for path in (out / "samples").glob("[0-9]*.png") if NAME.fullmatch(path.name)]
    return sorted(found, key=lambda path: int(path.stem))


def reduced(grid: Tensor) -> Tensor:
    """Return images (rows, columns, 3, H, W) with at most LARGEST pixels across."""
    rows, columns, _, height, width = grid.shape
    if width <= LARGEST:
        return grid
    size = (max(1, round(height * LARGEST / width)), LARGEST)
    small = torch.nn.functional.interpolate(grid.flatten(0, 1), size=size, mode="area")
    return small.unflatten(0, (rows, columns))
