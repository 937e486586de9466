"""The record per image is read as it was written, pairs images by their noise, and refuses what is no record."""

import json

import pytest
import torch
from PIL import Image

from rdt import image_record
from rdt.image_record import FILE, Recorded

PROMPTS = ["a circle", "a\nsquare"]


def written(folder, size=8):
    """Write the record of two prompts with two images each and return the pixels."""
    pixels = {row: torch.randint(0, 256, (2, 3, size, size), dtype=torch.uint8) for row in range(2)}
    scores = {row: {"hps": torch.tensor([0.25, float("nan")])} for row in range(2)}
    image_record.write_images(folder, Recorded(PROMPTS, 5, seed=3), pixels, scores)
    return pixels


def test_records_name_the_noise_and_keep_every_score_and_pixel(tmp_path):
    pixels = written(tmp_path / "tuned")
    found = image_record.read_images(tmp_path / "tuned")
    assert [(one.prompt, one.row, one.column, one.seed, one.index) for one in found] == [
        (PROMPTS[row], row, column, 3, 5 * row + column) for row in range(2) for column in range(2)
    ]
    assert [one.scores["hps"] for one in found] == [0.25, None] * 2
    for one in found:
        with Image.open(tmp_path / "tuned" / one.file) as image:
            assert image.tobytes() == pixels[one.row][one.column].permute(1, 2, 0).contiguous().numpy().tobytes()


def test_a_record_replaces_the_one_before_and_large_images_are_compressed(tmp_path):
    written(tmp_path / "tuned", size=8)
    written(tmp_path / "tuned", size=96)
    assert {path.suffix for path in (tmp_path / "tuned").iterdir()} == {".webp", ".json"}
    assert image_record.read_images(tmp_path / "base") == []


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("file", "../../secret.png", "names the image"),
        ("file", "000-00.svg", "names the image"),
        ("file", 3, "names the image"),
        ("prompt", None, "another type"),
        ("row", -1, "another type"),
        ("column", "0", "another type"),
        ("scores", {"hps": "high"}, "no finite numbers"),
        ("scores", [1.0], "no finite numbers"),
        ("more", 1, "without the fields"),
    ],
)
def test_what_is_no_record_is_refused_in_one_line(tmp_path, key, value, words):
    written(tmp_path / "tuned")
    file = tmp_path / "tuned" / FILE
    whole = json.loads(file.read_text())
    whole["images"][0][key] = value
    file.write_text(json.dumps(whole))
    with pytest.raises(ValueError, match=words) as raised:
        image_record.read_images(tmp_path / "tuned")
    assert str(file) in str(raised.value) and "\n" not in str(raised.value)


@pytest.mark.parametrize("text", ["{}", "[]", '{"images": 3}', "{", '{"images": [1]}'])
def test_a_damaged_file_is_refused(tmp_path, text):
    (tmp_path / FILE).write_text(text)
    with pytest.raises(ValueError, match=FILE):
        image_record.read_images(tmp_path)
