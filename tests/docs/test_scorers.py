"""The scorers of docs/scorers/ answer rdt: the server runs as a process, and one asks a model behind an interface."""

import base64
import io
import json
import os
import re
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from PIL import Image

from rdt.rewards.client import RemoteFailed
from rdt.rewards.remote import RemoteReward
from worlds import children
from worlds.scorers import answer, playing

FOLDER = Path(__file__).resolve().parents[2] / "docs/scorers"
PICTURES = torch.rand(5, 3, 24, 20, generator=torch.Generator().manual_seed(0))
PROMPTS = [f"a ring, number {k}" for k in range(5)]
SETTINGS = {"format": "png", "batch_size": 2, "parallel": 2, "timeout": 120.0, "retries": 0, "missing": "stop"}
SCORER = """
def score(images, prompts, metadata):
    values = [sum(image.resize((1, 1)).getpixel((0, 0))) / 765 for image in images]
    if "fail" in prompts:
        raise RuntimeError("no model")
    rows = zip(values, prompts, metadata, strict=True)
    return [None if "skip" in row else value + row.get("more", 0) for value, prompt, row in rows]
"""


@contextmanager
def served(file: Path, **environment: str):
    """Serve a file by the server of docs/scorers as a process, and yield its URL."""
    command = [sys.executable, str(FOLDER / "server.py"), str(file), "0"]
    with children.started(command, env=os.environ | environment) as process:
        yield re.search(r"http://\S+", process.stdout.readline())[0]
        process.terminate()
        process.wait(children.PATIENCE)


def test_a_scorer_without_rdt_gets_images_prompts_and_rows(tmp_path):
    (tmp_path / "own.py").write_text(SCORER, encoding="utf-8")
    with served(tmp_path / "own.py") as url:
        far = RemoteReward(url=url, **SETTINGS)
        plain = far(PICTURES, PROMPTS)
        assert torch.allclose(plain, PICTURES.mean((1, 2, 3)), atol=0.05) and plain.std() > 0
        rows = [{}, {"more": 1}, {"skip": True}, {}, {"more": -2, "include": [{"class": "ring"}]}]
        more = far(PICTURES, PROMPTS, rows) - plain
        assert more.isnan().tolist() == [False, False, True, False, False]
        assert more[[0, 1, 3, 4]].tolist() == pytest.approx([0, 1, 0, -2], abs=1e-6)
        with pytest.raises(RemoteFailed, match=r"500 RuntimeError\('no model'\)"):
            far(PICTURES[:1], ["fail"])
        with pytest.raises(RemoteFailed, match=r"400 .*format=float32, expected png"):
            RemoteReward(url=url, **SETTINGS | {"format": "float32"})(PICTURES, PROMPTS)


def test_a_chat_model_is_asked_once_per_image_and_its_number_is_the_score():
    asked = []

    def chat(connection, body):
        """Answer as a chat model, with a number that stands in the prompt."""
        picture, text = json.loads(body)["messages"][0]["content"]
        coded = picture["image_url"]["url"].partition("base64,")[2]
        asked.append(Image.open(io.BytesIO(base64.b64decode(coded))).size)
        number = re.search(r"number (\d)", text["text"])[1]
        said = "I cannot tell." if number == "4" else f"{number}.5 of 10"
        connection.sendall(answer(json.dumps({"choices": [{"message": {"content": said}}]}).encode()))

    with playing(chat) as model, served(FOLDER / "vlm.py", VLM_URL=f"{model}/v1", VLM_MODEL="judge") as url:
        scores = RemoteReward(url=url, **SETTINGS | {"missing": "skip"})(PICTURES, PROMPTS)
    assert scores[:4].tolist() == pytest.approx([0.05, 0.15, 0.25, 0.35]) and scores[4].isnan()
    assert asked == [(20, 24)] * 5


def test_every_scorer_of_the_page_is_a_file_that_compiles():
    page = (FOLDER.parent / "scorers.md").read_text(encoding="utf-8")
    named = set(re.findall(r"docs/scorers/(\w+\.py)", page))
    assert named == {file.name for file in FOLDER.glob("*.py")}
    for name in named:
        compile((FOLDER / name).read_text(encoding="utf-8"), name, "exec")
