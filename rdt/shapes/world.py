"""The embedded world shows one object on a plain background: its content, its finish, and an annotator of known taste.

The content is what diversity counts: six attributes, which a prompt may state. The finish is what no prompt states and
diversity does not count: how vivid, crisp and glossy the object is, each in [0, 1] in a natural image.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from rdt.shapes.attributes import CARDINALITIES, FINISH, FREE, NAMES

TASTE: dict[str, tuple[float, ...]] = {  # the annotator's weight of each value, if the attribute is free
    "shape": (1.0, 0.6, 0.4, 0.5, 0.3, 0.8),
    "colour": (1.0, 0.8, 0.5, 0.2, 0.3, 0.6),
    "size": (0.0, 0.5, 1.0),
    "vertical": (0.3, 1.0, 0.3),
    "horizontal": (0.3, 1.0, 0.3),
    "background": (0.2, 0.4, 1.0),
}
MATCH, TASTES, QUALITY = 0.5, 0.25, 0.25  # weights of the utility's parts
BEST, NATURAL, FALL = 0.7, 1.0, 3.0  # the finish is best from BEST to NATURAL, beyond which quality falls at this rate


@dataclass(frozen=True)
class Scene:
    """Holds the continuous parameters of N images, in coordinates in which the image spans [-1, 1]."""

    shape: Tensor  # (N,), index into ATTRIBUTES["shape"]
    centre: Tensor  # (N, 2), x to the right and y downwards
    radius: Tensor  # (N,)
    foreground: Tensor  # (N, 3), RGB in [0, 1]
    background: Tensor  # (N, 3)
    softness: Tensor  # (N,), width of the edge, in units of half the image
    gloss: Tensor  # (N,), strength of the light from the upper left


POSITIONS = torch.tensor([-0.38, 0.0, 0.38])
RADII = torch.tensor([0.30, 0.42, 0.56])
HUES = torch.tensor([0.0, 30.0, 57.0, 130.0, 220.0, 285.0])  # degrees
GRAYS = torch.tensor([0.08, 0.5, 0.94])
POSITION_JITTER, RADIUS_JITTER, HUE_JITTER, GRAY_JITTER = 0.06, 0.05, 5.0, 0.03
SATURATION, VALUE, SOFTNESS, GLOSS = (0.30, 0.90), (0.70, 0.95), (0.10, 0.025), 0.6  # at a finish of 0 and of 1
JITTERS = 5


def random_modes(count: int, generator: torch.Generator) -> Tensor:
    """Return attribute indices (count, 6), uniform over the 2,916 modes."""
    columns = [torch.randint(k, (count,), generator=generator) for k in CARDINALITIES]
    return torch.stack(columns, dim=1)


def scene(modes: Tensor, jitter: Tensor, finish: Tensor) -> Scene:
    """Return the scene of modes (N, 6) with a finish (N, 3) and jitter (N, 5) of x, y, radius, hue and gray.

    Natural images have jitter in [-1, 1] and a finish in [0, 1]; values beyond are drawn as well.
    """
    shape, colour, size, vertical, horizontal, background = modes.unbind(1)
    vivid, crisp, gloss = finish.unbind(1)
    centre = torch.stack([POSITIONS[horizontal], POSITIONS[vertical]], dim=1) + POSITION_JITTER * jitter[:, :2]
    gray = GRAYS[background] + GRAY_JITTER * jitter[:, 4]
    hue = HUES[colour] + HUE_JITTER * jitter[:, 3]
    return Scene(
        shape=shape,
        centre=centre,
        radius=RADII[size] * (1 + RADIUS_JITTER * jitter[:, 2]),
        foreground=rgb(hue, _between(SATURATION, vivid), _between(VALUE, vivid)).clamp(0, 1),
        background=gray[:, None].expand(-1, 3),
        softness=SOFTNESS[0] * (SOFTNESS[1] / SOFTNESS[0]) ** crisp,
        gloss=GLOSS * gloss,
    )


def random_scene(modes: Tensor, generator: torch.Generator, finish: Tensor | None = None) -> Scene:
    """Return the scene of modes (N, 6) with uniform jitter and, unless one is given, a uniform finish (N, 3)."""
    jitter = 2 * torch.rand(len(modes), JITTERS, generator=generator) - 1
    if finish is None:
        finish = random_finish(len(modes), generator)
    return scene(modes, jitter, finish)


def random_finish(count: int, generator: torch.Generator) -> Tensor:
    """Return the finish (count, 3) of natural images, which is uniform in [0, 1]."""
    return torch.rand(count, len(FINISH), generator=generator)


def rgb(hue: Tensor, saturation: Tensor, value: Tensor) -> Tensor:
    """Convert hues (N,) in degrees, saturations (N,) and values (N,) to RGB (N, 3)."""
    k = (torch.tensor([5.0, 3.0, 1.0]) + hue[:, None] / 60) % 6
    return value[:, None] * (1 - saturation[:, None] * torch.minimum(k, 4 - k).clamp(0, 1))


def _between(ends: tuple[float, float], share: Tensor) -> Tensor:
    return ends[0] + (ends[1] - ends[0]) * share


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


def quality(finish: Tensor) -> Tensor:
    """Return what the annotator thinks of a finish (..., 3), (...) in [0, 1]: the mean over its three factors.

    A factor's quality rises to 1 at 0.7, stays there up to 1 and falls steeply beyond, where no natural image lies.
    """
    rise, fall = finish / BEST, 1 - FALL * (finish - NATURAL)
    return torch.minimum(rise, fall).clamp(0, 1).mean(-1)


def utility(modes: Tensor, finish: Tensor, stated: Tensor) -> Tensor:
    """Return the annotator's utility, 0.5 match + 0.25 taste + 0.25 quality, (N,) in [0, 1]."""
    return content_utility(modes, stated) + QUALITY * quality(finish)


def content_utility(modes: Tensor, stated: Tensor) -> Tensor:
    """Return the part of the utility that the content decides, 0.5 match + 0.25 taste, (N,) in [0, 0.75]."""
    return MATCH * match(modes, stated) + TASTES * taste(modes, stated)
