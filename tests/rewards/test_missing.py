"""Tests the run's choice about images without a score: they stop the run in one line, or are left out and counted."""

import json
import math
import socket

import pytest
import torch

from rdt.errors import Diverged
from rdt.methods.bbo import BBO
from rdt.rewards.base import Affine
from rdt.rewards.missing import Scored, stand_ins, without_absent
from rdt.rewards.mixture import Mixture, Term
from rdt.rewards.remote import RemoteReward
from rdt.training.launch import work
from worlds.scorers import answer, playing
from worlds.smallest_run import adapter, minimal, rows
from worlds.tiny_policy import Brightness

SETTINGS = {"format": "png", "batch_size": 16, "parallel": 1, "timeout": 60.0, "retries": 0}
PICTURES = torch.rand(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))
GRPO = ("method=grpo", "method.group=2", "method.kl_coef=0")


def gaps(every: int, after: int = 0):
    """Return what a scorer does whose score is null for each n-th image, from some request on."""
    requests = []

    def act(connection: socket.socket, body: bytes) -> None:
        requests.append(body)
        count = len(json.loads(body)["prompts"])
        scores = [None if len(requests) > after and k % every == 0 else k + len(requests) for k in range(count)]
        connection.sendall(answer(json.dumps({"scores": scores}).encode()))

    return act, requests


def remote(url: str, missing: str) -> RemoteReward:
    return RemoteReward(url=url, missing=missing, **SETTINGS)


def test_a_missing_score_names_reward_prompt_and_image():
    scores = torch.tensor([1.0, 2.0, 3.0, math.nan])
    with pytest.raises(Diverged) as caught:
        Scored("reward=remote", "stop", scores, ["a", "b"]).check_present("reward is nan at iteration 3: ")
    assert str(caught.value) == (
        "reward is nan at iteration 3: reward=remote scored image 1 of the prompt 'b' as nan;"
        " reward.missing=skip leaves such images out"
    )
    assert Scored("reward=remote", "skip", scores, ["a", "b"]).check_present().tolist() == [False] * 3 + [True]


@pytest.mark.parametrize("missing", ["", "stop", "skip"])
def test_an_infinite_score_and_scores_that_are_all_missing_stop_the_run(missing):
    with pytest.raises(Diverged, match="image 0 of the prompt 'b' as -inf"):
        Scored("own", missing, torch.tensor([1.0, -math.inf]), ["a", "b"]).check_present()
    with pytest.raises(Diverged):
        Scored("own", missing, torch.full((2, 1), math.nan), ["a", "b"]).check_present()


def test_an_image_without_a_score_stands_at_the_mean_of_its_prompt():
    parts = torch.tensor([[1.0, math.nan, 3.0], [math.nan, math.nan, math.nan]])[..., None]
    filled, absent = stand_ins(parts)
    assert filled.squeeze(-1).tolist() == [[1, 2, 3], [2, 2, 2]]
    assert absent.tolist() == [[False, True, False], [True] * 3]
    assert without_absent(torch.ones(2, 3, 5), absent).sum((1, 2)).tolist() == [10, 0]
    whole = torch.rand(2, 3, 2)
    assert stand_ins(whole)[0] is whole


def test_an_image_that_one_part_of_a_mixture_has_no_score_for_stands_out_whole():
    parts = torch.tensor([[[1.0, 10.0], [math.nan, 20.0], [3.0, 60.0]]])
    assert stand_ins(parts)[0].tolist() == [[[1, 10], [2, 35], [3, 60]]]


def test_a_scaled_and_a_mixed_scorer_keep_the_choice():
    with playing(gaps(every=2)[0]) as url:
        far = remote(url, "skip")
        mixed = Mixture({"far": Term(far, 1.0), "near": Term(Brightness(), 1.0)}, "raw")
        for reward in (far, Affine(far, scale=2.0, offset=0.0), mixed, Affine(mixed, scale=1.0, offset=1.0)):
            assert reward.missing == "skip"
            assert reward(PICTURES, list("abcd")).isnan().tolist() == [True, False, True, False]
        strict = Mixture({"far": Term(remote(url, "stop"), 1.0), "near": Term(Brightness(), 1.0)}, "raw")
        with pytest.raises(Diverged, match="far, a part of the reward, scored image 0 of the prompt 'a' as nan"):
            strict(PICTURES, list("abcd"))


def test_a_broken_image_is_no_missing_score():
    broken = PICTURES.clone()
    broken[0, 0, 0, 0] = math.nan
    with playing(gaps(every=9)[0]) as url, pytest.raises(Diverged, match="an image is not finite"):
        remote(url, "skip")(broken, list("abcd"))


def trained(out, url: str, *overrides: str) -> dict:
    """Return the result of a run on a scorer."""
    work(minimal(out, "reward=remote", f"reward.url={url}", "logger=csv", *overrides))
    return json.loads((out / "result.json").read_text())


@pytest.mark.parametrize("after", [0, 2], ids=["training", "evaluation"])
def test_a_run_stops_at_a_missing_score(after, tmp_path):
    with playing(gaps(every=2, after=after)[0]) as url, pytest.raises(Diverged) as caught:
        trained(tmp_path / "out", url, *GRPO)
    start = "evaluation stops: " if after else "reward is nan at iteration 0: "
    assert str(caught.value).startswith(f"{start}reward=remote scored image 0 of the prompt 'a ")
    assert "\n" not in str(caught.value) and not (tmp_path / "out" / "result.json").exists()


@pytest.mark.parametrize("method", [GRPO, ("method=ddpo",), ("method=drift", "method.group=4", "method.keep=2")])
def test_a_run_leaves_images_without_a_score_out_and_counts_them(method, tmp_path):
    with playing(gaps(every=2)[0]) as url:
        result = trained(tmp_path / "out", url, "reward.missing=skip", "evaluation.images_per_prompt=3", *method)
    assert all(float(row["train/missing"]) == 2 for row in rows(tmp_path / "out") if row["train/missing"])
    for point in (result["base"], *result["points"]):
        assert point["missing"]["mean"] == 2 and point["per_prompt"]["missing"] == [2, 2]
        assert all(map(math.isfinite, point["per_prompt"]["reward/remote"]))


def test_a_scorer_without_gaps_trains_the_same_under_both_choices(tmp_path):
    weights = []
    for missing in ("stop", "skip"):
        with playing(gaps(every=100, after=100)[0]) as url:
            trained(tmp_path / missing, url, f"reward.missing={missing}", *GRPO)
        weights.append(adapter(tmp_path / missing))
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


def test_black_box_optimisation_learns_from_the_answers_that_came(tmp_path, monkeypatch):
    fitted = []
    fit = BBO.fit
    monkeypatch.setattr(BBO, "fit", lambda self, round: (fitted.append(len(self.answers[-1].scores)), fit(self, round)))
    box = ("method=bbo", "method.queries=[8]", "method.budget=8", "method.updates_per_round=2", "method.capacity=4")
    with playing(gaps(every=2)[0]) as url:
        trained(tmp_path / "out", url, "reward.missing=skip", *box)
    assert fitted == [4]
    assert float(rows(tmp_path / "out")[0]["train/queries"]) == 8
