"""Tests the format of the remote scorer: what is written is read back, and what is none is refused as the client's."""

import base64
import io
import json
import struct
import zlib

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from rdt.rewards import wire
from rdt.rewards.wire import Limits, TooLarge, replied, reply, requested
from worlds.requests import BODIES, JSON, TEXTS, png, pngs
from worlds.scorers import LIMITS

ACCEPTED = Limits(**LIMITS)
PICTURES = torch.rand(7, 3, 24, 20, generator=torch.Generator().manual_seed(0))
PROMPTS = [f"a ring, number {i}" for i in range(7)]
quick = settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.too_slow])


def read(body: bytes) -> tuple[torch.Tensor, list[str]]:
    """Return the images and the prompts of a request."""
    batches = list(requested(bytearray(body), ACCEPTED).batches(ACCEPTED.pixels))
    return torch.cat([images for images, _ in batches]), [prompt for _, prompts in batches for prompt in prompts]


@quick
@given(
    prompts=st.lists(TEXTS, min_size=1, max_size=4), height=st.integers(1, 40), stretch=st.floats(1 / 16, 16),
    form=st.sampled_from(wire.FORMATS), seed=st.integers(0, 99),
)  # fmt: skip
def test_images_and_prompts_are_read_as_they_were_written(prompts, height, stretch, form, seed):
    width = min(max(round(height * stretch), -(-height // 16)), 16 * height)
    generator = torch.Generator().manual_seed(seed)
    images = torch.randint(256, (len(prompts), 3, height, width), generator=generator) / 255
    found, words = read(wire.request(images, prompts, form))
    assert words == prompts and torch.equal(found, images)


@quick
@given(scores=st.lists(st.floats(width=32), max_size=8))
def test_scores_are_read_as_they_were_written(scores):
    found = replied(reply(torch.tensor(scores)), len(scores))
    finite = torch.tensor(scores).isfinite()
    assert torch.equal(torch.tensor(found)[finite], torch.tensor(scores)[finite])
    assert torch.tensor(found).isnan().tolist() == (~finite).tolist()


@settings(quick, max_examples=300)
@given(body=BODIES)
def test_whatever_comes_is_a_request_or_refused_in_one_line(body):
    try:
        images, prompts = read(body)
    except ValueError as error:
        assert str(error).isprintable()
    else:
        assert len(images) == len(prompts)


@settings(quick, max_examples=300)
@given(body=BODIES | JSON.map(lambda value: json.dumps({"scores": value}).encode()), count=st.integers(0, 3))
def test_whatever_is_answered_are_scores_or_refused_in_one_line(body, count):
    try:
        assert len(replied(body, count)) == count
    except ValueError as error:
        assert str(error).isprintable()


@pytest.mark.parametrize(
    "answer", [b"hello", b"[]", b'{"scores": [1]}', b'{"scores": [1, "a"]}', b'{"scores": [1, true]}']
)
def test_a_malformed_answer_is_one_line(answer):
    with pytest.raises(ValueError) as caught:
        replied(answer, 2)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "change",
    [
        {"format": "gif"}, {"images": ["AAAA"]}, {"prompts": ["one"]}, {"prompts": 3}, {"shape": [3, 2]},
        {"images": [], "prompts": []}, {"shape": [3, -24, -20]}, {"shape": [3, 24, True]}, {"shape": [3, 0, 0]},
        {"shape": [3, 480, 1]}, {"shape": [10**400] * 3}, {"shape": [3, 24, 10**400]}, {"format": [[[]]]},
    ],
)  # fmt: skip
def test_a_malformed_request_is_refused(change):
    content = json.loads(wire.request(PICTURES, PROMPTS, "float32"))
    with pytest.raises(ValueError):
        read(json.dumps(content | change).encode())


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (pngs(png(13000, 13000)), "13000x13000 pixels, expected at most 65536"),
        (pngs(png(2**31, 2**31)), "expected at most 65536 pixels"),
        (pngs(*[png(256, 256)] * 5), "5 images of 256x256 pixels, expected at most 262144 pixels in all"),
        (b'{"prompts": ["' + b"x" * 2_000_000 + b'"]}', "bytes, expected at most 2000000"),
        ('{"prompts": ["' + "é" * 700_000 + '"]}', "with characters beyond ASCII, expected at most 1000000"),
        (b'{"prompts": ["\\ud83d\\ude00' + b"x" * 1_000_000 + b'"]}', "expected at most 1000000"),
        (b"[" * 100_000, "commas and brackets"),
        (b"[" + b"{}," * 100_000 + b"1]", "commas and brackets"),
        (json.dumps({"prompts": ["a"], "images": [""], "format": "float32", "shape": [3, 13000, 13000]}), "pixels"),
    ],
)  # fmt: skip
def test_what_is_too_large_is_refused_before_it_is_read(body, words):
    with pytest.raises(TooLarge, match=words):
        requested(bytearray(body if isinstance(body, bytes) else body.encode()), ACCEPTED)


@pytest.mark.parametrize(
    "body", [pngs(png(65535, 1)), pngs(png(1, 65535)), pngs(png(0, 0)), pngs(png(20, 24)), pngs(""), pngs("x")]
)
def test_a_picture_of_another_kind_is_refused(body):
    with pytest.raises(ValueError):
        read(body)


def test_a_png_that_states_two_sizes_is_refused():
    file = io.BytesIO()
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(file, "PNG")
    whole = file.getvalue()
    small, large = whole[8:33], whole[8:33].replace(struct.pack(">II", 8, 8), struct.pack(">II", 9000, 9000))
    large = large[:-4] + struct.pack(">I", zlib.crc32(large[4:-4]))
    coded = base64.b64encode(whole[:8] + small + large + whole[33:]).decode()
    with pytest.raises(ValueError, match="two sizes"):
        read(pngs(coded))


def test_a_large_request_is_decoded_a_few_images_at_a_time():
    query = requested(wire.request(torch.rand(5, 3, 128, 128), PROMPTS[:5], "png"), ACCEPTED)
    assert [len(images) for images, _ in query.batches(2 * 128 * 128)] == [2, 2, 1]
    assert [len(images) for images, _ in query.batches(1)] == [1] * 5


def test_a_body_is_not_kept_beside_its_text():
    body = bytearray(wire.request(PICTURES, PROMPTS, "png"))
    requested(body, ACCEPTED)
    assert body == b""
