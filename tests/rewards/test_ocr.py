"""The OCR reward reads texts that are drawn on images, with the engine that it names, and finds what a prompt wants."""

import builtins
import socket

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageDraw, ImageFont

from rdt.errors import UsageError
from rdt.rewards import ocr
from rdt.rewards.ocr import OcrReward, levenshtein, likeness
from rdt.rewards.remote import RemoteReward
from worlds.scorers import serving

SETTINGS = {"format": "png", "batch_size": 2, "parallel": 1, "timeout": 120.0, "retries": 0, "missing": "stop"}
WORDS = st.text("ab c", max_size=6)


def drawn(*texts: str) -> torch.Tensor:
    """Return images (B, 3, 256, 256) with the texts in black on white."""
    images = []
    for text in texts:
        image = Image.new("RGB", (256, 256), "white")
        ImageDraw.Draw(image).text((16, 90), text, fill="black", font=ImageFont.load_default(36))
        images.append(torch.from_numpy(np.array(image)).permute(2, 0, 1) / 255)
    return torch.stack(images)


@given(WORDS, WORDS, WORDS)
def test_the_distance_is_a_metric_that_counts_edits(a, b, c):
    assert levenshtein(a, b) == levenshtein(b, a) and (levenshtein(a, b) == 0) == (a == b)
    assert levenshtein(a, c) <= levenshtein(a, b) + levenshtein(b, c)
    assert abs(len(a) - len(b)) <= levenshtein(a, b) <= max(len(a), len(b))
    assert levenshtein("kitten", "sitting") == 3


def test_likeness_is_one_for_the_text_anywhere_and_falls_with_every_edit():
    assert likeness("Hello World", "say HELLOWORLD twice") == 1
    assert likeness("ring", "rinq") == 0.75 and likeness("ring", "") == 0 and likeness("ring", "x" * 50) == 0


def test_the_wanted_text_is_a_field_of_the_row_or_in_quotation_marks():
    reward = OcrReward(field="text", read=lambda image: "OPEN")
    prompts = ['a sign that says "Open"', "a sign “Open” at night", "a sign", 'a sign "Shut"']
    rows = [{}, {}, {"text": "open"}, {"text": "open"}]
    assert reward(drawn(*prompts), prompts, rows).tolist() == [1, 1, 1, 1]
    assert reward(drawn("x"), ['a sign "Shut"']).item() < 0.5
    for prompt, row in (("a sign", {}), ("a sign", {"text": 3}), ('a "  "', {})):
        with pytest.raises(Exception, match="has no text in quotation marks, and its row no field text"):
            reward(drawn("x"), [prompt], [row])


def test_the_reader_gets_bytes_with_blue_first():
    seen = []
    reward = OcrReward(field="text", read=lambda image: seen.append(image) or "a")
    image = torch.zeros(1, 3, 4, 6)
    image[:, 0], image[:, 2] = 1.0, 0.2
    reward(image, ['"a"'])
    assert seen[0].shape == (4, 6, 3) and seen[0].dtype == np.uint8 and seen[0][0, 0].tolist() == [51, 0, 255]


def test_a_missing_engine_is_one_line_with_the_extra(monkeypatch):
    imported = builtins.__import__

    def without(name, *rest, **more):
        if name == "rapidocr_onnxruntime":
            raise ImportError("No module named 'rapidocr_onnxruntime'")
        return imported(name, *rest, **more)

    ocr.rapid_ocr.cache_clear()
    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(
        UsageError, match=r"RapidOCR, which is not here .* pip install -c constraints.txt -e '\.\[ocr\]'"
    ):
        OcrReward(field="text")


@pytest.fixture
def offline(monkeypatch):
    """Refuse connections to other machines, and return a fresh reward on the engine."""
    pytest.importorskip("rapidocr_onnxruntime")
    connect = socket.socket.connect

    def local(self, address):
        assert str(address[0]).startswith("127."), address
        return connect(self, address)

    monkeypatch.setattr(socket.socket, "connect", local)
    ocr.rapid_ocr.cache_clear()
    return OcrReward(field="text")


@pytest.mark.filterwarnings("ignore")  # of the engine's own imports
def test_the_engine_reads_drawn_text_without_a_network(offline):
    texts = ["HELLO", "GREEN TEA"]
    scores = offline(
        drawn(*texts, "", "GREEN TEE"), ["a sign"] * 4, [{"text": t} for t in (*texts, "HELLO", "GREEN TEA")]
    )
    assert scores[:3].tolist() == [1, 1, 0] and 0.5 < scores[3] < 1


@pytest.mark.filterwarnings("ignore")
def test_the_engine_is_served_with_the_rows(offline):
    with serving(offline) as url:
        far = RemoteReward(url=url, **SETTINGS)
        rows = [{"text": "hello"}, {}, {"text": "cat"}]
        assert far(drawn("HELLO", "HELLO", "HELLO"), ["a", '"Hello"', "b"], rows).tolist()[:2] == [1, 1]
