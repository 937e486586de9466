"""GenEval (Ghosh et al. 2310.11513): whether an image has the objects, counts, colours and positions of its prompt.

A prompt's row has the list `include` of objects {"class": name, "count": n}, which may have a "color" or a "position"
[relation, k] to the objects of the k-th entry; a list `exclude` of numbers of objects that are too many; and a `tag`.
The detections of a class above 0.3 (0.9 if the tag is "counting") count, the 16 best at most, and the `count` best of
them are looked at for colour and position.

    color      the colour, of ten, whose text is closest to the object by CLIP, on a grey ground and cut out
    position   o = c_a - c_b of the boxes' centres, shortened by 0.1 (w_a + w_b, h_a + h_b), over |o|: left of if its
               first component is below -0.5, right of above 0.5, above and below by the second one

score = 1 if every entry is met, else 0; with strict=false the share of entries that are met, as Flow-GRPO (2505.05470)
trains on. Departure: the detector is Mask2Former with its authors' weights for Swin-S, as transformers has it, in place
of mmdetection's training of the same network, whose package needs another environment.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import product
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rdt.rewards.base import Metadata, Reward, blank
from rdt.rewards.clip import ClipReward, clipscore
from rdt.rewards.detector import Detector, Found, mask2former

NAMES = tuple(
    """person, bicycle, car, motorcycle, airplane, bus, train, truck, boat, traffic light, fire hydrant, stop sign,
    parking meter, bench, bird, cat, dog, horse, sheep, cow, elephant, bear, zebra, giraffe, backpack, umbrella,
    handbag, tie, suitcase, frisbee, skis, snowboard, sports ball, kite, baseball bat, baseball glove, skateboard,
    surfboard,
    tennis racket, bottle, wine glass, cup, fork, knife, spoon, bowl, banana, apple, sandwich, orange, broccoli, carrot,
    hot dog, pizza, donut, cake, chair, couch, potted plant, bed, dining table, toilet, tv, laptop, computer mouse,
    tv remote, computer keyboard, cell phone, microwave, oven, toaster, sink, refrigerator, book, clock, vase, scissors,
    teddy bear, hair drier, toothbrush""".replace("\n    ", " ").split(", ")
)  # GenEval's names of COCO's classes, in COCO's order
COLOURS = ("red", "orange", "yellow", "green", "blue", "purple", "pink", "brown", "black", "white")
TEXTS = ("a photo of a {colour} {name}", "a photo of a {colour}-colored {name}", "a photo of a {colour} object")
RELATIONS = ("left of", "right of", "above", "below")
THRESHOLD, COUNTING, MOST = 0.3, 0.9, 16
OVERLAP, DIRECTION = 0.1, 0.5
GREY = 0.6  # of the ground behind an object, #999999
Colours = Callable[[Tensor, str, Sequence[Found]], list[str]]  # an image (3, H, W), a class, objects -> their colours


class GenEval(Reward):
    """Scores images by what a detector and a judge of colours find; it has no gradient."""

    differentiable = False
    reads_metadata = True

    def __init__(self, *, detector: Detector, colours: Colours, strict: bool) -> None:
        super().__init__()
        self.networks = nn.ModuleList(one for one in (detector, colours) if isinstance(one, nn.Module))
        self.detector, self.colours, self.strict = detector, colours, strict

    @torch.no_grad()
    def forward(self, images: Tensor, prompts: list[str], metadata: Sequence[Metadata]) -> Tensor:
        """Return the scores, (B,); ValueError, naming the prompt, for a row that is not GenEval's."""
        for prompt, row in zip(prompts, metadata, strict=True):
            check_row(prompt, row)
        found = self.detector(images.nan_to_num().clamp(0, 1))
        scores = [self._score(*one) for one in zip(images, found, metadata, strict=True)]
        return blank(torch.tensor(scores, dtype=torch.float32).to(images.device), images)

    def _score(self, image: Tensor, found: Sequence[Found], row: Metadata) -> float:
        """Return the score of an image with these objects for a row."""
        kept = by_name(found, COUNTING if row.get("tag") == "counting" else THRESHOLD)
        met = [*self._included(image, kept, row["include"]), *_excluded(kept, row.get("exclude", ()))]
        return float(all(met)) if self.strict else sum(met) / len(met)

    def _included(
        self, image: Tensor, kept: Mapping[str, list[Found]], include: Iterable[Mapping[str, Any]]
    ) -> list[bool]:
        """Return which entries are met; one whose position refers to an entry that is not met is not."""
        groups: list[list[Found]] = []  # the objects of each entry, none if it is not met
        for entry in include:
            objects = kept.get(entry["class"], [])[: entry["count"]]
            met = len(objects) == entry["count"]
            if met and "color" in entry:
                met = self.colours(image, entry["class"], objects) == [entry["color"]] * len(objects)
            if met and "position" in entry:
                relation, k = entry["position"]
                met = bool(groups[k]) and all(relation in relations(*pair) for pair in product(objects, groups[k]))
            groups.append(objects if met else [])
        return [bool(group) for group in groups]


class ClipColours(nn.Module):
    """Tells the colours of objects by CLIP's cosines, of texts that are averaged at unit length."""

    def __init__(self, clip: ClipReward) -> None:
        super().__init__()
        self.clip = clip
        self._texts: dict[str, Tensor] = {}

    def forward(self, image: Tensor, name: str, objects: Sequence[Found]) -> list[str]:
        if name not in self._texts:
            self._texts[name] = torch.stack([self._text(name, colour) for colour in COLOURS])
        features = torch.cat([self.clip.image_features(cut_out(image, one)[None]) for one in objects])
        nearest = (features @ self._texts[name].to(features).T).argmax(1)
        return [COLOURS[k] for k in nearest.tolist()]

    def _text(self, name: str, colour: str) -> Tensor:
        """Return the unit feature (D,) of a coloured object, over the texts that describe it."""
        texts = [text.format(colour=colour, name=name) for text in TEXTS]
        return F.normalize(self.clip.text_features(texts).mean(0), dim=0)


def by_name(found: Iterable[Found], threshold: float) -> dict[str, list[Found]]:
    """Return the objects above a threshold by their names, the best first, `MOST` of each at most."""
    kept: dict[str, list[Found]] = {}
    for one in sorted(found, key=lambda one: -one.score):
        if one.score > threshold:
            kept.setdefault(one.name, []).append(one)
    return {name: objects[:MOST] for name, objects in kept.items()}


def relations(a: Found, b: Found) -> set[str]:
    """Return where one object is of another, none if the boxes overlap too much."""
    a_box, b_box = (torch.tensor(one.box, dtype=torch.float64).view(2, 2) for one in (a, b))
    offset = a_box.mean(0) - b_box.mean(0)
    sides = (a_box[1] - a_box[0]).abs() + (b_box[1] - b_box[0]).abs()
    shortened = (offset.abs() - OVERLAP * sides).clamp(min=0) * offset.sign()
    if (shortened.abs() < 1e-3).all():
        return set()
    x, y = (shortened / offset.norm()).tolist()
    holds = (x < -DIRECTION, x > DIRECTION, y < -DIRECTION, y > DIRECTION)
    return {name for name, true in zip(RELATIONS, holds, strict=True) if true}


def cut_out(image: Tensor, found: Found) -> Tensor:
    """Return an object's box of an image (3, H, W), with grey in place of what is not the object."""
    left, top, right, bottom = map(int, found.box)
    ground = torch.full_like(image, GREY)
    return torch.where(found.mask.to(image.device), image, ground)[:, top:bottom, left:right]


def _excluded(kept: Mapping[str, list[Found]], exclude: Iterable[Mapping[str, Any]]) -> list[bool]:
    return [len(kept.get(entry["class"], [])) < entry["count"] for entry in exclude]


def check_row(prompt: str, row: Metadata) -> None:
    """Raise ValueError, naming the prompt, unless a row is one of GenEval's."""
    include, exclude = row.get("include"), row.get("exclude", [])
    if not isinstance(include, list | tuple) or not include or not isinstance(exclude, list | tuple):
        raise ValueError(f"the row of the prompt {prompt!r} has no list `include`, as GenEval's rows have")
    for k, entry in enumerate([*include, *exclude]):
        if fault := _fault(entry, min(k, len(include))):
            raise ValueError(f"the row of the prompt {prompt!r}: {fault}")


def _fault(entry: Any, before: int) -> str:
    """Return what is wrong with an entry that has so many entries before it, "" if nothing is."""
    if not isinstance(entry, Mapping) or entry.get("class") not in NAMES:
        return f"{entry!r:.80} has no class of COCO"
    if type(entry.get("count")) is not int or not 0 < entry["count"] <= MOST:
        return f"count={entry.get('count')!r:.80} is no number from 1 to {MOST}"
    if entry.get("color", COLOURS[0]) not in COLOURS:
        return f"color={entry['color']!r:.80} is not one of {', '.join(COLOURS)}"
    if "position" in entry and entry["position"] not in [[name, k] for name in RELATIONS for k in range(before)]:
        return f"position={entry['position']!r:.80} is not one of {', '.join(RELATIONS)} and an entry before it"
    return ""


def geneval(*, weights: Mapping[str, Any], strict: bool) -> GenEval:
    """Build the reward; `weights` has the detector's `checkpoint` and `sha256`, CLIP's `backbone` and `tokenizer`."""
    detector = mask2former(weights["checkpoint"], weights["sha256"], NAMES)
    clip = clipscore(weights={"checkpoint": weights["backbone"], "tokenizer": weights["tokenizer"]}, scaled=False)
    return GenEval(detector=detector, colours=ClipColours(clip), strict=strict)
