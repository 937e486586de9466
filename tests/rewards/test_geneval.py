"""GenEval's rows are scored by what a detector finds: a stand-in that finds what is said, and a tiny Mask2Former."""

import itertools
import json
import math
from typing import Any

import pytest
import torch

from rdt.rewards import detector
from rdt.rewards.contract import RewardError
from rdt.rewards.detector import Found, Mask2Former, prepared
from rdt.rewards.geneval import COLOURS, MOST, NAMES, ClipColours, GenEval, by_name, cut_out, relations
from rdt.rewards.remote import RemoteReward
from rdt.training.experiment import Experiment
from worlds import reward_checkpoints
from worlds.scorers import serving
from worlds.smallest_run import minimal

SIDE = 32
SETTINGS = {"format": "png", "batch_size": 3, "parallel": 1, "timeout": 60.0, "retries": 0, "missing": "stop"}
IMAGES = torch.rand(3, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0))


def found(name: str, score: float = 0.95, box: tuple = (0, 0, 8, 8)) -> Found:
    """Return an object whose mask fills its box."""
    mask = torch.zeros(SIDE, SIDE, dtype=torch.bool)
    mask[box[1] : box[3], box[0] : box[2]] = True
    return Found(name, score, tuple(map(float, box)), mask)


def need(name: str, count: int = 1, **more: Any) -> dict[str, Any]:
    """Return an entry of a row."""
    return {"class": name, "count": count, **more}


def judged(objects: list[Found], row: dict[str, Any], colours: tuple[str, ...] = (), strict: bool = True) -> float:
    """Return the score of an image in which these objects are found, of these colours, one after the other."""
    said = iter(colours)
    reward = GenEval(
        detector=lambda images: [objects] * len(images),
        colours=lambda image, name, few: [next(said) for _ in few],
        strict=strict,
    )
    return reward(IMAGES[:1], ["a photo"], [row]).item()


CAT, DOG = found("cat", box=(0, 12, 8, 20)), found("dog", box=(20, 12, 28, 20))


@pytest.mark.parametrize(
    ("objects", "row", "colours", "score"),
    [
        ([CAT], {"tag": "single_object", "include": [need("cat")]}, (), 1),
        ([DOG], {"include": [need("cat")]}, (), 0),
        ([found("cat", 0.3)], {"include": [need("cat")]}, (), 0),  # not above the threshold
        ([CAT, DOG], {"tag": "two_object", "include": [need("cat"), need("dog")]}, (), 1),
        ([CAT, CAT], {"tag": "two_object", "include": [need("cat"), need("dog")]}, (), 0),
        ([CAT] * 3, {"tag": "counting", "include": [need("cat", 3)], "exclude": [need("cat", 4)]}, (), 1),
        ([CAT] * 4, {"tag": "counting", "include": [need("cat", 3)], "exclude": [need("cat", 4)]}, (), 0),
        ([CAT, CAT, found("cat", 0.8)], {"tag": "counting", "include": [need("cat", 3)]}, (), 0),  # 0.9 for counts
        ([CAT, CAT, found("cat", 0.8)], {"include": [need("cat", 3)]}, (), 1),
        ([CAT], {"tag": "colors", "include": [need("cat", color="red")]}, ("red",), 1),
        ([CAT], {"tag": "colors", "include": [need("cat", color="red")]}, ("blue",), 0),
        ([CAT, DOG], {"include": [need("cat", color="red"), need("dog", color="blue")]}, ("red", "blue"), 1),
        ([CAT, DOG], {"include": [need("cat", color="red"), need("dog", color="blue")]}, ("blue", "red"), 0),
        ([CAT, DOG], {"tag": "position", "include": [need("dog"), need("cat", position=["left of", 0])]}, (), 1),
        ([CAT, DOG], {"tag": "position", "include": [need("dog"), need("cat", position=["above", 0])]}, (), 0),
        ([CAT], {"tag": "position", "include": [need("dog"), need("cat", position=["left of", 0])]}, (), 0),
    ],
)  # fmt: skip
def test_a_row_is_met_or_not(objects, row, colours, score):
    assert judged(objects, row, colours) == score


def test_only_the_most_confident_objects_are_looked_at():
    row = {"include": [need("cat", color="red")]}
    assert judged([found("cat", 0.4), found("cat", 0.9)], row, ("red",)) == 1  # one colour is asked for
    kept = by_name([found("cat", k / 100) for k in range(31, 31 + 2 * MOST)], 0.3)["cat"]
    assert len(kept) == MOST and [one.score for one in kept] == sorted((one.score for one in kept), reverse=True)


def test_the_share_of_entries_is_the_score_that_is_not_strict():
    row = {"include": [need("dog"), need("cat", position=["left of", 0])], "exclude": [need("cat", 2)]}
    for objects, share in (([CAT, DOG], 1.0), ([CAT], 1 / 3), ([DOG], 2 / 3), ([CAT, CAT], 0.0)):
        assert judged(objects, row, strict=False) == pytest.approx(share)


def test_positions_are_opposite_and_vanish_where_boxes_overlap():
    opposite = {"left of": "right of", "right of": "left of", "above": "below", "below": "above"}
    for angle in range(0, 360, 15):
        x, y = 12 + 10 * math.cos(math.radians(angle)), 12 + 10 * math.sin(math.radians(angle))
        a, b = found("cat", box=(12, 12, 16, 16)), found("dog", box=(round(x), round(y), round(x) + 4, round(y) + 4))
        assert {opposite[name] for name in relations(a, b)} == relations(b, a) != set()
    assert relations(found("cat", box=(0, 0, 20, 20)), found("dog", box=(1, 1, 21, 21))) == set()
    assert relations(CAT, DOG) == {"left of"} and relations(found("cat", box=(0, 0, 4, 4)), DOG) == {"left of"}


def test_rows_that_are_not_genevals_are_refused_with_their_prompt():
    cat = need("cat")
    wrong = [
        ({}, "no list `include`"),
        ({"include": []}, "no list `include`"),
        ({"include": [cat], "exclude": 1}, "no list `include`"),
        ({"include": ["cat"]}, "has no class of COCO"),
        ({"include": [need("unicorn")]}, "has no class of COCO"),
        ({"include": [need("cat", 0)]}, "count=0 is no number"),
        ({"include": [need("cat", color="grey")]}, "color='grey' is not one of red"),
        ({"include": [need("cat", position=["left of", 0])]}, "is not one of left of"),
        ({"include": [cat, need("dog", position=["behind", 0])]}, "is not one of left of"),
    ]
    for row, words in wrong:
        with pytest.raises(RewardError, match=rf"'a photo'.*{words}"):
            judged([CAT], row)


def test_genevals_names_are_those_of_80_classes():
    assert len(NAMES) == len(set(NAMES)) == 80 and NAMES[0] == "person" and NAMES[-1] == "toothbrush"
    assert {"computer mouse", "tv remote", "computer keyboard", "baseball glove", "surfboard"} <= set(NAMES)


def test_rows_reach_a_served_geneval():
    reward = GenEval(detector=lambda images: [[CAT]] * len(images), colours=lambda *_: [], strict=True)
    rows = [
        {"include": [need("cat")]},
        {"include": [need("dog")]},
        {"include": [need("cat")], "exclude": [need("cat")]},
    ]
    with serving(reward) as url:
        far = RemoteReward(url=url, **SETTINGS)
        assert far(IMAGES, ["a cat", "a dog", "no cat"], rows).tolist() == [1, 0, 0]
        with pytest.raises(RewardError, match="422 the row of the prompt 'a cat' has no list `include`"):
            far(IMAGES[:1], ["a cat"])


# colours


class Nearest:
    """Embeds an image by its mean colour and a text by the colour that it names."""

    VALUES = torch.tensor([
        [1, 0, 0], [1, 0.5, 0], [1, 1, 0], [0, 1, 0], [0, 0, 1], [0.5, 0, 0.5], [1, 0.5, 0.7], [0.5, 0.3, 0.1],
        [0, 0, 0], [1, 1, 1],
    ])  # fmt: skip

    def image_features(self, images: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.normalize(images.mean((2, 3)) - 0.4, dim=-1)

    def text_features(self, texts: list[str]) -> torch.Tensor:
        named = [next(k for k, name in enumerate(COLOURS) if f"a {name}" in text) for text in texts]
        return torch.nn.functional.normalize(self.VALUES[named] - 0.4, dim=-1)


def test_the_colour_is_that_of_the_object_and_not_of_its_ground():
    image = torch.zeros(3, SIDE, SIDE)
    image[2] = 1  # blue around
    one = found("cat", box=(4, 4, 12, 20))
    image[:, 4:20, 4:12] = torch.tensor([1.0, 0, 0])[:, None, None]
    assert ClipColours(Nearest())(image, "cat", [one]) == ["red"]
    assert cut_out(image, one).shape == (3, 16, 8)
    hole = Found("cat", 1.0, one.box, one.mask & (torch.arange(SIDE) > 7))
    assert torch.equal(cut_out(image, hole)[:, 0, 0], torch.full((3,), 0.6))


# the detector


@pytest.fixture(scope="module")
def network():
    """Return a tiny random Mask2Former of 80 classes, in transformers' own class."""
    pytest.importorskip("scipy")
    return reward_checkpoints.mask2former()


@pytest.fixture
def small(monkeypatch):
    """Let the detector read images of 64 pixels."""
    monkeypatch.setattr(detector, "SHORTEST", 64)


def test_detections_are_the_networks_best_with_the_boxes_of_their_masks(network, small):
    objects = Mask2Former(network, NAMES)(IMAGES)
    assert len(objects) == 3 and all(objects)
    for few in objects:
        assert [one.score for one in few] == sorted((one.score for one in few), reverse=True)
        for one in few:
            left, top, right, bottom = map(int, one.box)
            inside = torch.zeros_like(one.mask)
            inside[top:bottom, left:right] = True
            assert 0 < one.score < 1 and one.name in NAMES and not (one.mask & ~inside).any()
            assert one.mask[top].any() and one.mask[:, left].any() and one.mask[bottom - 1].any()


def test_a_run_scores_the_rows_of_its_file_by_published_files(small, tmp_path):
    """The reward of the config, from tiny files in the published formats, is that of its parts."""
    pytest.importorskip("scipy")
    rows = [{"prompt": f"a {name}", "include": [need(name, color="red")]} for name in ("cat", "dog", "bus")]
    for name, few in (("train", rows[:1]), ("held_out", rows[1:])):
        (tmp_path / f"{name}.jsonl").write_text("\n".join(map(json.dumps, few)), encoding="utf-8")
    files = [f"prompts.{name}_file={tmp_path / name}.jsonl" for name in ("train", "held_out")]
    given = reward_checkpoints.write(tmp_path)["geneval"]
    cfg = minimal(
        tmp_path / "out", "method=grpo", "reward=geneval", "reward.strict=false", "prompts=file", "prompts.key=prompt",
        *files, *given,
    )  # fmt: skip
    reward = Experiment(cfg).reward
    scores = reward(IMAGES, [row["prompt"] for row in rows])
    assert torch.equal(scores, reward(IMAGES, [row["prompt"] for row in rows], rows)) and scores.shape == (3,)
    detections = reward.detector(IMAGES)
    kept = [bool(by_name(few, 0.3).get(row["include"][0]["class"])) for few, row in zip(detections, rows, strict=True)]
    assert all(score == 0 for score, seen in zip(scores.tolist(), kept, strict=True) if not seen)
    with pytest.raises(RewardError, match="no list `include`"):
        reward(IMAGES[:1], ["a prompt of no file"])


def test_images_are_prepared_at_the_published_size():
    for height, width in itertools.product((512, 300), (512, 900)):
        pixels, (h, w) = prepared(torch.rand(3, height, width))
        assert min(h, w) == 800 or max(h, w) == 1333
        assert h / w == pytest.approx(height / width, rel=2e-3)
        assert pixels.shape[2] % 32 == pixels.shape[3] % 32 == 0 and not pixels[..., h:, :].any()


def test_a_detector_of_other_classes_is_refused(network):
    with pytest.raises(ValueError, match="has 80 classes, expected 2"):
        Mask2Former(network, ("cat", "dog"))
