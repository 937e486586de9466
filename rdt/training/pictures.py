"""One picture of base and tuned at equal noise: the same seeds at the same places."""

import math

import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from rdt.policy import Denoiser
from rdt.rollout import Noise, noisy, rollout
from rdt.training.experiment import Experiment
from rdt.training.record import grid_image

GAP, HEAD = 16, 26  # pixels between the blocks, and for the words over them


@torch.no_grad()
def images(experiment: Experiment, denoiser: Denoiser, prompt: str, count: int, seed: int) -> Tensor:
    """(count, 3, H, W) in [0, 1] of one prompt; image k depends on the seed and k alone."""
    policy, sampling, size = experiment.policy, experiment.sampling, experiment.cfg.evaluation.batch_size
    made = []
    for first in range(0, count, size):
        rows = range(first, min(first + size, count))
        noise = Noise(seed=seed, purpose="sample", indices=rows, shape=policy.latent_shape, device=policy.device)
        cond = noisy(policy.encode([prompt] * len(rows)), noise)
        x0 = rollout(denoiser, policy.process, cond, noise, sampling.num_steps, sampling.eta).clean
        made.append(policy.decode(x0).cpu())
    return torch.cat(made)


def sheet(blocks: dict[str, Tensor]) -> Image.Image:
    """Blocks of images (n, 3, H, W) beside each other, as square as n allows, each under its name."""
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
    """(n, 3, H, W) -> (rows, columns, 3, H, W), white where there is no image left."""
    columns = math.ceil(math.sqrt(len(block)))
    rows = math.ceil(len(block) / columns)
    white = torch.ones(rows * columns - len(block), *block.shape[1:])
    return torch.cat([block, white]).unflatten(0, (rows, columns))
