"""The other fields of a prompt's row reach the rewards and judges that read them, here and through a remote scorer."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from rdt.prompts import Prompt, from_file, joined, metadata, random_split, without
from rdt.rewards.base import Affine, Reward, with_metadata
from rdt.rewards.mixture import Mixture, Term
from rdt.rewards.remote import RemoteReward
from rdt.rewards.wire import Limits, request, requested
from rdt.stream import subset
from rdt.training.experiment import Experiment
from rdt.training.launch import work
from worlds.scorers import LIMITS, answer, playing, serving
from worlds.smallest_run import minimal, rows
from worlds.tiny_policy import Brightness

PICTURES = torch.rand(3, 3, 24, 20, generator=torch.Generator().manual_seed(0))
PROMPTS = ["a ring", "a circle", "a cross"]
FIELDS = [{"weight": 3.0, "include": [{"class": "ring", "count": 1}]}, {}, {"weight": -1.0}]
SETTINGS = {"format": "float32", "batch_size": 2, "parallel": 2, "timeout": 60.0, "retries": 0, "missing": "stop"}


class Weight(Reward):
    """Scores an image by the field `weight` of its prompt, 0 without one."""

    reads_metadata = True

    def forward(self, images: Tensor, prompts: list[str], metadata: Sequence[Mapping[str, Any]]) -> Tensor:
        assert len(metadata) == len(prompts)
        return images.new_tensor([fields.get("weight", 0.0) for fields in metadata])


def rows_file(path: Path, prompts: list[str], weights: list[float]) -> str:
    """Write a file of prompts with weights, and return its path."""
    lines = [json.dumps({"prompt": prompt, "weight": w}) for prompt, w in zip(prompts, weights, strict=True)]
    path.write_text("\n".join(lines), encoding="utf-8")
    return str(path)


# prompts


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("p.jsonl", '{"prompt": "a ring", "n": "1"}\n{"prompt": "a cross", "n": "2"}'),
        ("p.json", '[{"prompt": "a ring", "n": "1"}, {"n": "2", "prompt": "a cross"}]'),
        ("p.csv", "n,prompt\n1,a ring\n2,a cross"),
        ("p.tsv", "prompt\tn\na ring\t1\na cross\t2"),
    ],
)
def test_rows_keep_their_other_fields(name, content, tmp_path):
    (tmp_path / name).write_text(content, encoding="utf-8")
    found = from_file(path=str(tmp_path / name), key="prompt")
    assert found == ["a ring", "a cross"] and metadata(found) == {"a ring": {"n": "1"}, "a cross": {"n": "2"}}


def test_plain_prompts_have_no_metadata(tmp_path):
    (tmp_path / "p.txt").write_text("a ring\na cross", encoding="utf-8")
    (tmp_path / "p.jsonl").write_text('{"prompt": "a ring"}\n"a cross"', encoding="utf-8")
    assert metadata(from_file(path=str(tmp_path / "p.txt"))) == {}
    assert metadata(from_file(path=str(tmp_path / "p.jsonl"), key="prompt")) == {}


def test_a_prompt_of_several_rows_keeps_the_fields_in_which_they_agree(tmp_path):
    lines = [{"prompt": "a ring", "id": k, "include": ["ring"], "more": 1} for k in range(3)] + [{"prompt": "x"}]
    del lines[2]["more"]
    (tmp_path / "p.jsonl").write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")
    found = from_file(path=str(tmp_path / "p.jsonl"), key="prompt")
    assert metadata(found) == {"a ring": {"include": ["ring"]}}
    assert metadata(joined(sets={"a": found, "b": [Prompt("a ring", {"include": ["ring"], "id": 3})]})) == {
        "a ring": {"include": ["ring"]}
    }


def test_splits_and_subsets_keep_the_fields():
    prompts = [Prompt(f"p{k}", {"k": k}) for k in range(10)]
    parts = [random_split(prompts=prompts, name=name, share=0.3, seed=0) for name in ("train", "held_out")]
    for part in (*parts, without(prompts=prompts, others=["p3"]), subset(prompts=prompts, count=4, seed=1)):
        assert metadata(part) == {prompt: {"k": int(prompt[1:])} for prompt in part} and len(part) in (3, 4, 7, 9)


# rewards


def test_only_those_that_ask_are_given_metadata():
    assert torch.equal(Brightness()(PICTURES, PROMPTS, FIELDS), Brightness()(PICTURES, PROMPTS))
    assert Weight()(PICTURES, PROMPTS, FIELDS).tolist() == [3, 0, -1]
    assert Weight()(PICTURES, PROMPTS).tolist() == [0, 0, 0]
    with pytest.raises(ValueError, match="metadata=2 for images=3"):
        Weight()(PICTURES, PROMPTS, FIELDS[:2])


def test_a_table_reaches_rewards_inside_others():
    table = dict(zip(PROMPTS, FIELDS, strict=True))
    mixed = Mixture({"w": Term(Weight(), 2.0), "b": Term(Brightness(), 1.0)}, "raw")
    expected = 2 * torch.tensor([3.0, 0, -1]) + Brightness()(PICTURES, PROMPTS)
    assert torch.allclose(mixed(PICTURES, PROMPTS, FIELDS), expected)
    assert torch.allclose(with_metadata(mixed, lambda: table)(PICTURES, PROMPTS), expected)
    assert torch.equal(mixed.components["w"](PICTURES, PROMPTS), torch.tensor([3.0, 0, -1]))
    scaled = Affine(mixed, scale=2.0, offset=1.0)
    assert torch.allclose(scaled(PICTURES, PROMPTS), 2 * expected + 1)
    assert torch.allclose(scaled.total(scaled.parts(PICTURES, PROMPTS)), 2 * expected + 1)
    with_metadata(Brightness(), lambda: pytest.fail("nothing reads it"))


# the protocol


def test_metadata_survives_the_protocol_file_by_file():
    table = dict(zip(PROMPTS, FIELDS, strict=True))
    with serving(Weight()) as url:
        far = with_metadata(RemoteReward(url=url, **SETTINGS), lambda: table)
        assert far(PICTURES, PROMPTS).tolist() == [3, 0, -1]
        assert far(PICTURES, PROMPTS, FIELDS[::-1]).tolist() == [-1, 0, 3]
        silent = RemoteReward(url=url, **SETTINGS, metadata=False)
        assert with_metadata(silent, lambda: table)(PICTURES, PROMPTS).tolist() == [0, 0, 0]


def test_an_old_client_is_served_and_an_old_scorer_scores():
    limits = Limits(**LIMITS)
    old = json.loads(request(PICTURES, PROMPTS, "png"))
    assert set(old) == {"prompts", "images", "format"}  # what was sent before prompts had metadata
    assert requested(json.dumps(old).encode(), limits).metadata == [{}, {}, {}]
    bodies = []

    def act(connection, body):
        """Score as a scorer that reads prompts and images alone."""
        bodies.append(json.loads(body))
        connection.sendall(answer(json.dumps({"scores": [len(text) for text in bodies[-1]["prompts"]]}).encode()))

    with playing(act) as url:
        far = RemoteReward(url=url, **SETTINGS | {"batch_size": 3})
        assert far(PICTURES, PROMPTS, FIELDS).tolist() == [6, 8, 7]
        assert far(PICTURES, PROMPTS).tolist() == [6, 8, 7]
    assert bodies[0]["metadata"] == FIELDS and "metadata" not in bodies[1]


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({}, "metadata is not a list of objects"),
        ([{}, 1, {}], "metadata is not a list"),
        ([{}], "1 objects of metadata"),
    ],
)
def test_what_is_no_metadata_is_refused(given, words):
    body = json.dumps(json.loads(request(PICTURES, PROMPTS, "png")) | {"metadata": given}).encode()
    with pytest.raises(ValueError, match=words):
        requested(body, Limits(**LIMITS))


def test_batches_of_a_request_keep_their_metadata():
    query = requested(request(PICTURES, PROMPTS, "float32", FIELDS), Limits(**LIMITS))
    parts = list(query.batches(2 * 24 * 20))
    assert [prompts for _, prompts, _ in parts] == [PROMPTS[:2], PROMPTS[2:]]
    assert [fields for _, _, fields in parts] == [FIELDS[:2], FIELDS[2:]]


# a run


def test_training_and_evaluation_score_by_the_fields_of_their_files(tmp_path):
    train = rows_file(tmp_path / "train.jsonl", ["a red ring", "a small circle"], [5.0, 5.0])
    held_out = rows_file(tmp_path / "held_out.jsonl", ["a blue ring", "a large cross"], [7.0, 9.0])
    with serving(Weight()) as url:
        cfg = minimal(
            tmp_path / "out", "method=grpo", "reward=remote", f"reward.url={url}", "prompts=file", "logger=csv",
            f"prompts.train_file={train}", f"prompts.held_out_file={held_out}", "prompts.key=prompt",
            "batch_size=8", "method.group=4", "+reward@evaluation.judges.far=remote",
            f"evaluation.judges.far.url={url}",
        )  # fmt: skip
        work(cfg)
    result = json.loads((tmp_path / "out/result.json").read_text(encoding="utf-8"))
    assert [float(row["train/reward"]) for row in rows(tmp_path / "out")] == [5, 5]
    assert all(result["base"]["reward"][name]["mean"] == 8 for name in ("remote", "far"))
    assert sorted(result["base"]["per_prompt"]["reward/remote"]) == [7, 9]


def test_kept_scores_depend_on_the_metadata_that_they_were_made_with(tmp_path):
    def settings(weight: float) -> str:
        held_out = rows_file(tmp_path / "held_out.jsonl", ["a blue ring"], [weight])
        files = [f"prompts.train_file={train}", f"prompts.held_out_file={held_out}", "prompts.key=prompt"]
        own = ["reward=remote", "reward.url=http://127.0.0.1:1", "prompts=file", *files]
        return Experiment(minimal(tmp_path / "out", "method=grpo", *own)).reward.settings

    train = rows_file(tmp_path / "train.jsonl", ["a red ring"], [1.0])
    assert settings(1.0) == settings(1.0) != settings(2.0)
