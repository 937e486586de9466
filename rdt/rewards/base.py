"""The contract of every reward, the scale on which methods see it, and the preprocessing that learned rewards share."""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rdt.rewards.contract import check_scores, named_failure

TOLERANCE = 1e-3  # how far outside [0, 1] rounding may carry a decoded image


class Reward(nn.Module):
    """Scores images (B, 3, H, W) in [0, 1] for B prompts: forward returns the raw published scores, (B,).

    A reward is frozen, stays in evaluation mode, and checks the inputs and the scores of every call.
    """

    differentiable: bool = True
    reads_prompts: bool = True  # False: an image has the same score under every prompt
    grouped: bool = False  # True: `relative` compares several images of one prompt
    missing: str = ""  # what NaN in place of a score means: "stop" or "skip" the image; "": a score is never missing
    key: str = ""  # of the config, such as reward=hps; messages name the reward by it
    settings: str = ""  # the config's section, for a digest of what scores depend on

    def __call__(self, images: Tensor, prompts: list[str]) -> Any:
        check_images(images)
        if len(prompts) != len(images):
            raise ValueError(f"prompts={len(prompts)} for images={len(images)}: expected one prompt per image")
        with named_failure(self.title, prompts):
            scores = super().__call__(images, prompts)
        check_scores(self.title, scores, images, differentiable=self.differentiable)
        return scores

    @property
    def title(self) -> str:
        """Return what messages call the reward: its key in the config, or its class."""
        return self.key or str(self)

    @property
    def components(self) -> dict[str, "Reward"]:
        """Return the rewards that this one combines, by name; none for a plain reward."""
        return {}

    def parts(self, images: Tensor, prompts: list[str]) -> Tensor:
        """Return the scores of the R components, (B, R); R = 1 for a plain reward."""
        return self(images, prompts).unsqueeze(-1)

    def total(self, parts: Tensor) -> Tensor:
        """Combine the components' scores (..., R) into the score (...)."""
        return parts.squeeze(-1)

    def relative(self, parts: Tensor) -> Tensor:
        """Return the values by which the G images of each of P prompts are compared, (P, G, R) -> (P, G)."""
        return self.total(parts)

    def __str__(self) -> str:
        return type(self).__name__

    def train(self, mode: bool = True) -> "Reward":
        """Stay in evaluation mode whatever `mode` is: the module that holds a reward may be in training."""
        return super().train(False)


@torch.no_grad()
def check_images(images: Tensor) -> None:
    """Raise ValueError unless images are float (B, 3, H, W) in [0, 1]; NaN passes, and the loss reports it."""
    if images.ndim != 4 or images.shape[1] != 3 or not images.is_floating_point():
        raise ValueError(f"images are {images.dtype} {tuple(images.shape)}, expected float (B, 3, H, W)")
    low, high = (bound.item() for bound in torch.aminmax(images)) if images.numel() else (0.0, 0.0)
    if low < -TOLERANCE or high > 1 + TOLERANCE:
        raise ValueError(f"images span [{low:.4g}, {high:.4g}], expected [0, 1]")


def blank(scores: Tensor, images: Tensor) -> Tensor:
    """Return scores (B,) with NaN for each image that is not finite; scores from bytes or classes would hide it."""
    return scores.masked_fill(~images.isfinite().flatten(1).all(1).to(scores.device), torch.nan)


class Affine(Reward):
    """Returns scale * score + offset to methods, while evaluation, judges and limits keep the raw score.

    reward.scale=0.0385 divides PickScore by 26; a negative scale minimises a reward.
    """

    def __init__(self, reward: Reward, *, scale: float, offset: float) -> None:
        super().__init__()
        if not scale or not torch.tensor([scale, offset]).isfinite().all():
            raise ValueError(
                f"reward.scale={scale} reward.offset={offset}: expected finite numbers and a scale other than 0"
            )
        self.reward, self.scale, self.offset = reward, scale, offset
        self.differentiable, self.reads_prompts = reward.differentiable, reward.reads_prompts
        self.grouped, self.missing = reward.grouped, reward.missing
        self.key, self.settings = reward.key, reward.settings

    def forward(self, images: Tensor, prompts: list[str]) -> Tensor:
        return self.scale * self.reward(images, prompts) + self.offset

    def parts(self, images: Tensor, prompts: list[str]) -> Tensor:
        """Return the components' raw scores, (B, R): the scale applies to what they make."""
        return self.reward.parts(images, prompts)

    def total(self, parts: Tensor) -> Tensor:
        return self.scale * self.reward.total(parts) + self.offset

    def relative(self, parts: Tensor) -> Tensor:
        return self.scale * self.reward.relative(parts) + self.offset

    def __str__(self) -> str:
        return str(self.reward)


MEAN = (0.48145466, 0.4578275, 0.40821073)  # of CLIP's training images, by channel
STD = (0.26862954, 0.26130258, 0.27577711)

SquareFit = Callable[[Tensor, int, str], Tensor]  # images, side in pixels, interpolation -> square images


def preprocess(images: Tensor, size: int, fit: SquareFit, interpolation: str = "bicubic") -> Tensor:
    """Resize as PIL does, make square by `fit` (crop or pad) and normalise as CLIP does.

    Images (B, 3, H, W) in [0, 1] become float32 (B, 3, size, size); gradient passes through.
    """
    square = fit(images.float(), size, interpolation)  # antialiased resize does not exist in bfloat16 on CPU
    mean, std = (square.new_tensor(values)[:, None, None] for values in (MEAN, STD))
    return (square - mean) / std


def crop(images: Tensor, size: int, interpolation: str = "bicubic") -> Tensor:
    """Resize the shortest side to `size`, clip as PIL does, crop the centre: for all published rewards but HPS."""
    h, w = images.shape[-2:]
    short = min(h, w)
    height, width = int(size * h / short), int(size * w / short)  # int(), as the published processors round
    images = _resize(images, height, width, interpolation).clamp(0, 1)
    top, left = round((height - size) / 2), round((width - size) / 2)
    return images[..., top : top + size, left : left + size]


def pad(images: Tensor, size: int, interpolation: str = "bicubic") -> Tensor:
    """Resize the longest side to `size` and fill the other with black bars, without clipping: for HPS."""
    h, w = images.shape[-2:]
    scale = size / max(h, w)
    height, width = round(h * scale), round(w * scale)
    images = _resize(images, height, width, interpolation)
    bars_x, bars_y = size - width, size - height
    return F.pad(images, (bars_x // 2, bars_x - bars_x // 2, bars_y // 2, bars_y - bars_y // 2))


def _resize(images: Tensor, height: int, width: int, interpolation: str) -> Tensor:
    """Resize with antialiasing; images of that size are returned as they are."""
    if images.shape[-2:] == torch.Size((height, width)):
        return images
    return F.interpolate(images, (height, width), mode=interpolation, align_corners=False, antialias=True)
