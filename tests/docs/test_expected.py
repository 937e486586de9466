"""Runs every row of the table of docs/real.md that `rdt evaluate` claims, at the smallest size, on a tiny model."""

import json
import re
import shlex
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch import nn

from rdt import evaluate
from rdt.embedders.dreamsim import dreamsim
from rdt.result import read
from rdt.rewards import detector, ocr
from worlds import feature_checkpoints, model_checkpoints, reward_checkpoints
from worlds.lora_files import saved
from worlds.scorers import serving
from worlds.tiny_policy import Brightness

PAGE = Path(__file__).resolve().parents[2] / "docs/real.md"
SECTION = PAGE.read_text(encoding="utf-8").partition("## What reviewers expect")[2].partition("The rest needs")[0]
ROWS = [re.findall(r"`([^`]+)`", line)[0] for line in SECTION.splitlines() if line.startswith("| ") and "`" in line]
REAL = {
    "drawbench",
    "partiprompts",
    "geneval",
    "ocr",
    "list",
}  # sets of prompts, whose files stand for the published ones
SMALL = ["evaluation.kl_images=0", "model.sampling.num_steps=2", "evaluation.batch_size=4", "evaluation.grid=[1,1]"]
TEXTS = ['a red ring that says "OPEN"', 'a blue cross with the word "Shut"', 'a cat named "Tom"']


class Pooled(nn.Module):
    """Embeds images as DreamSim's package does."""

    def __init__(self):
        super().__init__()
        self.extractor_list = nn.ModuleList([nn.Identity()])
        self.weight = nn.Parameter(torch.randn(3 * 8 * 8, 7, generator=torch.Generator().manual_seed(0)))

    def embed(self, images):
        return nn.functional.adaptive_avg_pool2d(images, 8).flatten(1) @ self.weight


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """Return the overrides that name tiny files of every model, adapter, reward and metric."""
    folder = tmp_path_factory.mktemp("tiny")
    source = model_checkpoints.MAKERS["sd15"](folder / "sd15")
    lora, *_ = saved("sd15", source, folder / "lora", lora_alpha=16)
    rewards = reward_checkpoints.write(folder / "rewards")
    rewards["hps"] = [item.replace("hps_v2.", "hps.") for item in rewards.pop("hps_v2")]
    lpips = feature_checkpoints.lpips_files(folder)["alex"] | {"size": 70}
    torch.save(feature_checkpoints.inception_tensors(), folder / "inception.pth")
    embedders = {
        "lpips": {key: "null" if value is None else value for key, value in lpips.items()},
        "dreamsim": {"folder": folder / "dreamsim"},
        "clip": {"checkpoint": feature_checkpoints.clip_folder(folder / "clip")},
        "clip_336": {"checkpoint": folder / "clip"},
        "dino": {"checkpoint": feature_checkpoints.dinov2_folder(folder / "dino")},
        "dinov3": {"checkpoint": feature_checkpoints.dinov3_folder(folder / "dinov3")},
        "inception": {"checkpoint": folder / "inception.pth", "sha256": "null"},
    }
    return {
        "model": [f"model.policy.source={source}", f"model.policy.setup.resolution={model_checkpoints.SIDE}"],
        "lora": [f"lora={lora}"],
        "rewards": [word for words in rewards.values() for word in words],
        "embedders": {name: [f"diversity.embedders.{name}.{key}={value}" for key, value in values.items()]
                      for name, values in embedders.items()},
    }  # fmt: skip


@pytest.fixture
def outside(monkeypatch):
    """Put small stand-ins where packages of others and large networks would be, and yield the URL of a scorer."""
    package = ModuleType("dreamsim")
    package.dreamsim = lambda **_: (Pooled(), None)
    monkeypatch.setitem(sys.modules, "dreamsim", package)
    monkeypatch.setattr(detector, "SHORTEST", 64)
    monkeypatch.setattr(ocr, "rapid_ocr", lambda: lambda image: "open")
    for cached in (dreamsim, detector.mask2former):
        cached.cache_clear()
    with serving(Brightness()) as url:
        yield url
    dreamsim.cache_clear()


def published(folder: Path, words: list[str]) -> Path:
    """Write three prompts in the layout of the benchmark that the words name, and return the file."""
    name = next((word.partition("=")[2] for word in words if word.startswith("prompts=")), "list")
    entry = {"tag": "single_object", "include": [{"class": "cat", "count": 1}]}
    lines = {
        "drawbench": (".csv", ["Prompts,Category", *(f'"{text.replace(chr(34), chr(34) * 2)}",x' for text in TEXTS)]),
        "partiprompts": (".tsv", ["Prompt\tCategory", *(f"{text}\tx" for text in TEXTS)]),
        "geneval": (".jsonl", [json.dumps(entry | {"prompt": text}) for text in TEXTS]),
    }
    suffix, text = lines.get(name, (".txt", TEXTS))
    file = folder / f"published{suffix}"
    file.write_text("\n".join(text), encoding="utf-8")
    return file


def smallest(word: str, file: Path, url: str) -> str:
    """Return a printed word with files of this machine, three prompts and five images at most."""
    if found := re.fullmatch(r"(evaluation\.(prompts|images_per_prompt))=(\d+)", word):
        return f"{found[1]}={min(int(found[3]), 3 if found[2] == 'prompts' else 5)}"
    return word.replace("<path>", str(file)).replace("http://127.0.0.1:8000", url)


def overrides(words: list[str], named: list[str], tiny: dict) -> list[str]:
    """Return what the words leave open: small sizes, and tiny files of the metrics that they name."""
    parts = {"inception": ["dino", "inception"]}
    keys = [word for name in named for one in parts.get(name, [name]) for word in tiny["embedders"][one]]
    defaults = {
        "judges": "judges=[clipscore]", "diversity": "diversity=[clip]", "evaluation.prompts": "evaluation.prompts=2",
        "evaluation.images_per_prompt": "evaluation.images_per_prompt=3", "lora": tiny["lora"][0],
        "prompts": "prompts=simple_animals",
    }  # fmt: skip
    given = {word.partition("=")[0] for word in words}
    rest = [word for key, word in defaults.items() if key not in given]
    rows = ["prompts.rows=3"] if "prompts.file" in given else []
    left_out = [f"~diversity.overall.{name}" for name in named if name in ("clip", "dino")]  # they want more images
    return [*rest, *rows, *tiny["model"], *tiny["rewards"], *keys, *left_out, *SMALL, "precision=fp32"]


def listed(words: list[str], key: str, usual: str) -> list[str]:
    """Return the names that the words list for a key."""
    return re.findall(r"\w+", next((word for word in words if word.startswith(f"{key}=")), usual).partition("=")[2])


@pytest.mark.parametrize("row", ROWS)
def test_a_row_runs_on_a_tiny_model(row, tiny, outside, tmp_path, monkeypatch, answered):
    monkeypatch.chdir(tmp_path)
    words = shlex.split(row)
    named, judges = listed(words, "diversity", "diversity=[clip]"), listed(words, "judges", "judges=[clipscore]")
    typed = [smallest(word, published(tmp_path, words), outside) for word in words]
    places = f"cache={tmp_path / 'cache'}", "output_dir=out"
    status, _, err = answered(evaluate.entry, "model=sd15", *typed, *overrides(typed, named, tiny), *places)
    assert status == 0 and err == "", err
    found = read(tmp_path / "out")
    assert {f"reward/{name}" for name in judges} <= found.base.means().keys()
    metrics = {name for name in found.tuned.means() if name.startswith(("diversity/", "fidelity/"))}
    for name in named:
        assert any({"inception": "spectral"}.get(name, name) in metric for metric in metrics), name
    curve = re.search(r"curve=\[([\d,]+)\]", row)
    assert len(found.points) == (len(curve[1].split(",")) if curve else 1)


def test_the_table_has_the_rows_that_its_sentence_promises():
    assert len(ROWS) == len([line for line in SECTION.splitlines() if line.startswith("| ")]) - 1 >= 14
    assert {word.partition("=")[2] for row in ROWS for word in row.split() if word.startswith("prompts=")} == REAL
