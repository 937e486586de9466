"""Mask2Former (Cheng et al. 2022) as transformers has it, as a detector of COCO's objects with their masks.

A query q of an image gives class probabilities p(c | q) and a mask m_q; its score for a class is p(c | q) times the
mean of sigmoid(m_q) over the pixels where m_q > 0, as its authors define it for instances. The 100 best pairs of query
and class are kept, each with the box around its mask.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib.util import find_spec

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import Mask2FormerForUniversalSegmentation

from rdt.errors import UsageError
from rdt.weights import pretrained

SHORTEST, LONGEST, DIVISOR = 800, 1333, 32  # pixels of the sides that the network reads
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
KEPT = 100


@dataclass(frozen=True)
class Found:
    """Holds one object that was detected in an image."""

    name: str
    score: float
    box: tuple[float, float, float, float]  # left, top, right, bottom in pixels
    mask: Tensor  # (H, W) bool


Detector = Callable[[Tensor], list[list[Found]]]  # images (B, 3, H, W) in [0, 1] -> the objects of each image


class Mask2Former(nn.Module):
    """Detects objects; `names` are those of the network's classes, in its order."""

    def __init__(self, model: Mask2FormerForUniversalSegmentation, names: Sequence[str]) -> None:
        super().__init__()
        if model.config.num_labels != len(names):
            raise ValueError(
                f"the detector has {model.config.num_labels} classes, expected {len(names)}, those of COCO"
            )
        self.model, self.names = model.float().eval().requires_grad_(False), tuple(names)

    @torch.no_grad()
    def forward(self, images: Tensor) -> list[list[Found]]:
        return [self._objects(image) for image in images.float()]  # one by one: the network's memory is large

    def _objects(self, image: Tensor) -> list[Found]:
        """Return the objects of an image (3, H, W), the best first."""
        with torch.autocast(image.device.type, enabled=False):
            pixels, inside = prepared(image)
            said = self.model(pixel_values=pixels)
        classes = said.class_queries_logits[0].softmax(-1)[:, :-1]  # (Q, C), without "no object"
        scores, place = classes.flatten().topk(min(KEPT, classes.numel()))
        masks = F.interpolate(said.masks_queries_logits, pixels.shape[-2:], mode="bilinear")[
            ..., : inside[0], : inside[1]
        ]
        masks = F.interpolate(masks, image.shape[-2:], mode="bilinear")[0]
        pairs = zip(scores, place // classes.shape[1], (place % classes.shape[1]).tolist(), strict=True)
        found = (self._object(score, masks[query], self.names[c]) for score, query, c in pairs)
        return sorted((one for one in found if one), key=lambda one: -one.score)

    def _object(self, score: Tensor, logits: Tensor, name: str) -> Found | None:
        """Return the object of a class score and the logits of a mask (H, W), None if the mask is empty."""
        mask = logits > 0
        if not mask.any():
            return None
        rows, columns = mask.any(1).nonzero().squeeze(1), mask.any(0).nonzero().squeeze(1)
        box = (columns[0].item(), rows[0].item(), columns[-1].item() + 1, rows[-1].item() + 1)
        return Found(name, (score * logits.sigmoid()[mask].mean()).item(), box, mask)


def prepared(image: Tensor) -> tuple[Tensor, tuple[int, int]]:
    """Return an image (3, H, W) in [0, 1] as the network reads it, (1, 3, H', W'), and its height and width in there.

    It is resized, its sides in proportion, normalised, and padded by zeros on the right and below.
    """
    sides = image.shape[-2:]
    scale = min(SHORTEST / min(sides), LONGEST / max(sides))
    height, width = (round(scale * side) for side in sides)
    resized = F.interpolate(image[None], (height, width), mode="bilinear", antialias=True)
    mean, std = (image.new_tensor(values)[:, None, None] for values in (MEAN, STD))
    return F.pad((resized - mean) / std, (0, -width % DIVISOR, 0, -height % DIVISOR)), (height, width)


@lru_cache
def mask2former(checkpoint: str, sha256: str | None, names: tuple[str, ...]) -> Mask2Former:
    """Return the detector of a Mask2Former folder or hub id; the digest pins its weight file."""
    if find_spec("scipy") is None:
        raise UsageError("transformers builds Mask2Former with scipy: pip install -c constraints.txt -e '.[geneval]'")
    return Mask2Former(pretrained(Mask2FormerForUniversalSegmentation, checkpoint, sha256), names)
