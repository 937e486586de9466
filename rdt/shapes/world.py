"""The embedded world shows one object on a plain background, with six attributes and an annotator of known taste."""

from dataclasses import dataclass

import torch
from torch import Tensor

from rdt.shapes.attributes import CARDINALITIES, FREE, NAMES

TASTE: dict[str, tuple[float, ...]] = {  # the annotator's weight of each value, if the attribute is free
    "shape": (1.0, 0.6, 0.4, 0.5, 0.3, 0.8),
    "colour": (1.0, 0.8, 0.5, 0.2, 0.3, 0.6),
    "size": (0.0, 0.5, 1.0),
    "vertical": (0.3, 1.0, 0.3),
    "horizontal": (0.3, 1.0, 0.3),
    "background": (0.2, 0.4, 1.0),
}
MATCH_WEIGHT = 0.6  # of the utility; the rest is taste


@dataclass(frozen=True)
class Scene:
    """Holds the continuous parameters of N images, in coordinates in which the image spans [-1, 1]."""

    shape: Tensor  # (N,), index into ATTRIBUTES["shape"]
    centre: Tensor  # (N, 2), x to the right and y downwards
    radius: Tensor  # (N,)
    foreground: Tensor  # (N, 3), RGB in [0, 1]
    background: Tensor  # (N, 3)


POSITIONS = torch.tensor([-0.38, 0.0, 0.38])
RADII = torch.tensor([0.30, 0.42, 0.56])
HUES = torch.tensor([0.0, 30.0, 57.0, 130.0, 220.0, 285.0])  # degrees
GRAYS = torch.tensor([0.08, 0.5, 0.94])
POSITION_JITTER, RADIUS_JITTER, HUE_JITTER, GRAY_JITTER = 0.06, 0.05, 5.0, 0.03


def random_modes(count: int, generator: torch.Generator) -> Tensor:
    """Return attribute indices (count, 6), uniform over the 2,916 modes."""
    columns = [torch.randint(k, (count,), generator=generator) for k in CARDINALITIES]
    return torch.stack(columns, dim=1)


def scene(modes: Tensor, jitter: Tensor) -> Scene:
    """Return the scene of modes (N, 6) with jitter (N, 5) in [-1, 1] of x, y, radius, hue and gray."""
    shape, colour, size, vertical, horizontal, background = modes.unbind(1)
    centre = torch.stack([POSITIONS[horizontal], POSITIONS[vertical]], dim=1) + POSITION_JITTER * jitter[:, :2]
    gray = GRAYS[background] + GRAY_JITTER * jitter[:, 4]
    return Scene(
        shape=shape,
        centre=centre,
        radius=RADII[size] * (1 + RADIUS_JITTER * jitter[:, 2]),
        foreground=rgb(HUES[colour] + HUE_JITTER * jitter[:, 3]),
        background=gray[:, None].expand(-1, 3),
    )


def random_scene(modes: Tensor, generator: torch.Generator) -> Scene:
    """Return the scene of modes (N, 6) with uniform jitter."""
    return scene(modes, 2 * torch.rand(len(modes), 5, generator=generator) - 1)


def rgb(hue: Tensor, saturation: float = 0.85, value: float = 0.9) -> Tensor:
    """Convert hues (N,) in degrees to RGB (N, 3) in [0, 1]."""
    k = (torch.tensor([5.0, 3.0, 1.0]) + hue[:, None] / 60) % 6
    return value - value * saturation * torch.minimum(k, 4 - k).clamp(0, 1)


def match(modes: Tensor, stated: Tensor) -> Tensor:
    """Return the share of stated attributes (N, 6) that hold in modes (N, 6), shape (N,); 1 if none is stated."""
    is_stated = stated != FREE
    right = ((modes == stated) & is_stated).sum(1)
    total = is_stated.sum(1)
    return torch.where(total > 0, right / total.clamp(min=1), torch.ones_like(right, dtype=torch.float))


def taste(modes: Tensor, stated: Tensor) -> Tensor:
    """Return the annotator's mean weight over the free attributes, (N,) in [0, 1]."""
    weights = torch.stack([torch.tensor(TASTE[n])[modes[:, k]] for k, n in enumerate(NAMES)], dim=1)
    free = (stated == FREE).float()
    return (weights * free).sum(1) / free.sum(1)


def utility(modes: Tensor, stated: Tensor) -> Tensor:
    """Return the annotator's utility, 0.6 match + 0.4 taste, (N,) in [0, 1]; it is the world's gold reward."""
    return MATCH_WEIGHT * match(modes, stated) + (1 - MATCH_WEIGHT) * taste(modes, stated)
