"""Pictures of samples: images of several denoisers side by side, the same seeds at the same places."""

import math

import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from rdt.policy import Denoiser
from rdt.rollout import sampled
from rdt.training.experiment import Experiment
from rdt.training.record import grid_image

GAP, HEAD = 16, 26  # pixels between the blocks, and of the line of text above them


@torch.no_grad()
def images(experiment: Experiment, denoiser: Denoiser, prompt: str, count: int, seed: int) -> Tensor:
    """Return images (count, 3, H, W) in [0, 1] of one prompt; image k depends only on the seed and k."""
    policy, size = experiment.policy, experiment.cfg.evaluation.batch_size
    parts = []
    for first in range(0, count, size):
        rows = range(first, min(first + size, count))
        noise = policy.noise(seed, "sample", rows)
        rollout = sampled(policy, denoiser, [prompt] * len(rows), noise, experiment.sampling)
        parts.append(policy.decode(rollout.clean).cpu())
    return torch.cat(parts)


def side_by_side(blocks: dict[str, Tensor]) -> Image.Image:
    """Return one picture of blocks of images (n, 3, H, W), each as square as n allows and under its name."""
    pictures = {name: grid_image(square(block)) for name, block in blocks.items()}
    width = sum(picture.width for picture in pictures.values()) + GAP * (len(pictures) - 1)
    canvas = Image.new("RGB", (width, HEAD + max(picture.height for picture in pictures.values())), "white")
    draw, left = ImageDraw.Draw(canvas), 0
    for name, picture in pictures.items():
        draw.text((left + 2, 5), name, fill="black", font=ImageFont.load_default(size=14))
        canvas.paste(picture, (left, HEAD))
        left += picture.width + GAP
    return canvas


def square(block: Tensor) -> Tensor:
    """Return images (n, 3, H, W) as a grid (rows, columns, 3, H, W), filled up with white images."""
    columns = math.ceil(math.sqrt(len(block)))
    rows = math.ceil(len(block) / columns)
    white = torch.ones(rows * columns - len(block), *block.shape[1:])
    return torch.cat([block, white]).unflatten(0, (rows, columns))
