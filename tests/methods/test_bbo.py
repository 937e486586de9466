"""Black-box optimisation counts each oracle call once and stops at the budget; a round queries, fits and resets."""

import itertools
import json
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from rdt.errors import Diverged
from rdt.methods.bbo import BBO
from rdt.methods.journal import Journal
from rdt.rewards.base import Reward
from rdt.rewards.surrogate import BudgetedOracle, BudgetExceeded
from rdt.rollout import Sampling
from rdt.training import folder
from rdt.training.launch import launch, work
from worlds import tiny_policy
from worlds.smallest_run import adapter, minimal, rows
from worlds.surrogates import surrogate

PROMPT = ["a circle"]


class Oracle(tiny_policy.Brightness):
    """Score brightness, and record the images and whether gradients were enabled."""

    def __init__(self, differentiable: bool = False) -> None:
        super().__init__()
        self.differentiable = differentiable
        self.images: list[Tensor] = []
        self.with_gradient: list[bool] = []

    def forward(self, images: Tensor, prompts: list[str]) -> Tensor:
        self.images += images.unbind()
        self.with_gradient.append(torch.is_grad_enabled())
        return super().forward(images, prompts)


def bbo(oracle: Reward | None = None, kind: str = "ucb", steps: int = 5, **changed: Any) -> BBO:
    """Return BBO with two rounds of four queries; `changed` replaces options."""
    options = {
        "gamma": 1.0, "kl_coef": 0.0, "kl_min_std": 0.0, "look_ahead": "consistency", "n_step": 4, "replay": "uniform",
        "omega": 1.0, "importance_correction": False, "capacity": 8, "replay_ratio": 1, "mask_nonpositive": False,
        "batch_size": 2, "seed": 0, "lr": 1e-2, "weight_decay": 0.0, "max_grad_norm": 1e9, "adam_eps": 1e-8,
        "micro_batch_size": None, "queries": [4, 4], "budget": 8, "updates_per_round": 2, "query_batch_size": 3,
    }  # fmt: skip
    return BBO(
        policy=tiny_policy.policy(trained=False), reward=oracle or Oracle(), surrogate=surrogate(kind, steps=steps),
        sampling=Sampling(2, 1.0, 1.0), **(options | changed),
    )  # fmt: skip


def calls(method: BBO, iterations: int) -> list[int]:
    """Return the number of oracle calls after each iteration."""
    found: list[int] = []
    tiny_policy.fit(method, iterations, tiny_policy.Probe(lambda method, _: found.append(method.oracle.calls)))
    return found


@pytest.mark.parametrize(
    "queries, budget, query_batch_size, expected",
    [
        ([4, 4], 8, 4, [4, 4, 8, 8, 8]),
        ([5, 7], 12, 3, [5, 5, 12, 12, 12]),
        ([5, 7], 9, 4, [5, 5, 9, 9, 9]),
        ([7, 3, 2], 1, 5, [1, 1, 1, 1, 1]),
        ([3, 5, 1], 8, 100, [3, 3, 8, 8, 8]),
        ([2], 50, 1, [2, 2, 2, 2, 2]),
        ([3, 3, 3], 50, 2, [3, 3, 6, 6, 9]),
    ],
)
def test_the_budget_is_used_and_never_exceeded(
    queries: list[int], budget: int, query_batch_size: int, expected: list[int]
) -> None:
    oracle = Oracle()
    method = bbo(oracle, queries=queries, budget=budget, query_batch_size=query_batch_size)
    assert calls(method, 5) == expected
    assert len(oracle.images) == expected[-1] <= budget
    assert sum(len(answers.scores) for answers in method.answers) == expected[-1]
    assert not any(a.equal(b) for a, b in itertools.combinations(oracle.images, 2))  # no image is queried twice


def test_a_call_beyond_the_budget_is_refused_before_it_is_made() -> None:
    inside = Oracle()
    oracle = BudgetedOracle(oracle=inside, budget=3)
    oracle(torch.rand(2, 3, 4, 4), PROMPT * 2)
    with pytest.raises(BudgetExceeded, match=r"^2 calls exceed the 1 left of method\.budget=3$"):
        oracle(torch.rand(2, 3, 4, 4), PROMPT * 2)
    assert (oracle.calls, oracle.left, len(inside.images)) == (2, 1, 2)


class Mortal(Oracle):
    """An oracle whose process dies in its n-th call, before or after it has counted the images."""

    def __init__(self, last: int, answers: bool) -> None:
        super().__init__()
        self.last, self.answers = last, answers

    def forward(self, images: Tensor, prompts: list[str]) -> Tensor:
        if len(self.with_gradient) == self.last and not self.answers:
            raise KeyboardInterrupt
        found = super().forward(images, prompts)
        if len(self.with_gradient) > self.last:
            raise KeyboardInterrupt
        return found


@pytest.mark.parametrize("answers", [False, True])
def test_the_budget_holds_over_kills_and_answers_are_not_called_for_twice(tmp_path: Path, answers: bool) -> None:
    """The first two tries are killed in a batch, which counts whether or not the oracle has seen it."""
    seen: list[Tensor] = []
    for last in (1, 1, 0):
        oracle = Mortal(last, answers)
        method = bbo(oracle, queries=[4, 4], budget=8, query_batch_size=1)
        method.folder = tmp_path
        with suppress(KeyboardInterrupt, SystemExit):
            tiny_policy.fit(method, 1)
        seen += oracle.images
    assert len(seen) <= 4 and not any(a.equal(b) for a, b in itertools.combinations(seen, 2))
    journal = Journal(tmp_path / "oracle")
    assert len(journal.charged) == 4 and len(journal.scores) == 4 - 2


def test_a_run_that_was_killed_between_two_batches_has_the_answers_of_one_that_was_not(tmp_path: Path) -> None:
    whole = bbo(query_batch_size=2)
    tiny_policy.fit(whole, 3)
    first = Journal(tmp_path / "oracle")
    first.charge(0, [0, 1])
    first.answer(0, [0, 1], whole.answers[0].scores[:2].tolist())
    with first.file.open("ab") as stream:  # type: ignore[union-attr]
        stream.write(b'\n{"round": 0, "ro')  # the line in which it was killed
    oracle = Oracle()
    method = bbo(oracle, query_batch_size=2)
    method.folder = tmp_path
    tiny_policy.fit(method, 3)
    assert len(oracle.images) == 8 - 2 and method.oracle.calls == 8
    for a, b in zip(whole.answers, method.answers, strict=True):
        assert a.phi.equal(b.phi) and a.scores.equal(b.scores)
    assert all(a.equal(b) for a, b in zip(whole.trained, method.trained, strict=True))


class Undefined(Oracle):
    """An oracle that has no score for the last image of a call, and records its prompt."""

    def forward(self, images: Tensor, prompts: list[str]) -> Tensor:
        self.last = prompts[-1]
        return super().forward(images, prompts).index_fill(0, torch.tensor([len(images) - 1]), torch.nan)


def test_a_missing_score_names_its_own_prompt_although_another_image_has_no_answer(tmp_path: Path) -> None:
    Journal(tmp_path / "oracle").charge(0, [0])  # by a process that was killed before the answer
    oracle = Undefined()
    method = bbo(oracle, query_batch_size=4)
    method.folder = tmp_path
    with pytest.raises(Diverged) as caught:
        tiny_policy.fit(method, 1, prompts=[f"a circle, number {k}" for k in range(100)])
    assert len(oracle.images) == 3 and f"the prompt {oracle.last!r} as nan" in str(caught.value)


@pytest.mark.parametrize("differentiable", [False, True])
def test_an_oracle_is_a_black_box_even_if_it_has_a_gradient(differentiable: bool) -> None:
    oracle = Oracle(differentiable)
    calls(bbo(oracle), 3)
    assert oracle.with_gradient and not any(oracle.with_gradient)
    images = torch.rand(1, 3, 4, 4, requires_grad=True)
    assert not BudgetedOracle(oracle=oracle, budget=1)(images, PROMPT).requires_grad


def test_a_round_fits_the_surrogate_to_all_answers_so_far() -> None:
    levels: list[float] = []
    method = bbo(queries=[4, 6, 5], budget=100)
    tiny_policy.fit(method, 6, tiny_policy.Probe(lambda method, _: levels.append(method.reward.level.item())))
    scores = [answers.scores for answers in method.answers]
    assert [len(of_round) for of_round in scores] == [4, 6, 5]
    means = [torch.cat(scores[: k + 1]).mean().item() for k in range(3)]
    assert levels == pytest.approx([mean for mean in means for _ in range(2)])


def test_a_round_starts_from_an_empty_buffer_and_a_fresh_optimiser() -> None:
    held: list[int] = []
    steps: list[int] = []

    def look(method: BBO, _: Any) -> None:
        held.append(len(method.buffer))
        steps.append(int(next(iter(method.optimizers().optimizer.state.values()))["step"]))

    tiny_policy.fit(bbo(updates_per_round=3), 8, tiny_policy.Probe(look))
    assert held == [2, 4, 6, 2, 4, 6, 8, 8] and steps == [1, 2, 3, 1, 2, 3, 4, 5]


def test_queries_sample_the_current_policy() -> None:
    """Images of the second round reflect the first round's training; those of the first round are the base's."""
    found = []
    for lr in (0.0, 1e-2):
        method = bbo(lr=lr)
        tiny_policy.fit(method, 3)
        found.append([answers.scores for answers in method.answers])
    assert found[0][0].equal(found[1][0]) and not found[0][1].equal(found[1][1])


def test_the_logged_correlation_is_that_of_the_surrogate_before_the_fit() -> None:
    logged: list[dict[str, float]] = []
    method = bbo(queries=[30, 30], budget=60, updates_per_round=1)
    probe = tiny_policy.Probe(lambda method, _: logged.append(dict(method.round_metrics)))
    trainer = tiny_policy.fit(method, 2, probe)
    assert logged[0].keys() == {"queries", "oracle"} and logged[1].keys() == {"queries", "oracle", "correlation"}
    assert trainer.callback_metrics["train/oracle"].item() == pytest.approx(method.answers[1].scores.mean().item())
    other = surrogate("ucb")
    other.fit(method.answers[0].phi, method.answers[0].scores, torch.Generator())
    pair = torch.stack([other.estimate(method.answers[1].phi)[0], method.answers[1].scores])
    assert logged[1]["correlation"] == pytest.approx(torch.corrcoef(pair)[0, 1].item(), abs=1e-4)


@pytest.mark.parametrize("kind", ["bootstrap", "ucb"])
def test_the_score_of_a_black_box_rises_from_round_to_round(kind: str) -> None:
    rounds = {"queries": [32, 32, 32], "budget": 96, "updates_per_round": 5, "query_batch_size": 32}
    method = bbo(kind=kind, steps=50, lr=0.05, **rounds)
    tiny_policy.fit(method, 11)
    means = [answers.scores.mean().item() for answers in method.answers]
    assert means[2] > means[1] > means[0]


@pytest.mark.parametrize(
    "changed, message",
    [
        ({"budget": 0}, r"method\.budget=0 must be at least 1"),
        ({"queries": []}, r"method: queries=\[\], updates_per_round=2, query_batch_size=3 must each be at least 1"),
        ({"queries": [4, 0]}, r"method: queries=\[4, 0\], .* must each be at least 1"),
        ({"updates_per_round": 0}, r"method: .*updates_per_round=0.* must each be at least 1"),
    ],
)
def test_bad_options_are_refused_in_one_line(changed: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"^{message}$"):
        bbo(**changed)


def config(out: Any, *overrides: str) -> Any:
    """Return experiment=bbo at minimal size, with rounds at iterations 0, 2 and 4, the last cut short by the budget."""
    rounds = ("method.queries=[5,4,6]", "method.budget=12", "method.updates_per_round=2", "method.query_batch_size=3")
    return minimal(out, "experiment=bbo", "logger=csv", *rounds, *overrides)


def state(out: Any) -> dict[str, Any]:
    return torch.load(folder.checkpoints(out)[-1] / "run.ckpt", weights_only=True)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Run five iterations without interruption and return the folder."""
    out = tmp_path_factory.mktemp("whole") / "out"
    work(config(out, "iterations=5"))
    return out


def test_the_experiment_runs_and_logs_its_queries(whole: Any) -> None:
    assert [float(row["train/queries"]) for row in rows(whole)] == [5, 5, 9, 9, 12]
    assert "train/correlation" in rows(whole)[0] and rows(whole)[0]["train/correlation"] == ""
    result = json.loads((whole / "result.json").read_text())
    assert (result["method"], result["reward"]) == ("bbo", "gold") and "gold" in result["points"][0]["reward"]


def test_answers_are_saved_in_the_iteration_that_queried_them(whole: Any) -> None:
    """The regular checkpoint is due only after 50 iterations; the latest two checkpoints are kept."""
    assert [path.name for path in folder.checkpoints(whole)] == ["000003", "000005"]


@pytest.mark.slow
def test_a_run_resumes_in_the_middle_of_a_round_bit_for_bit(whole: Any, tmp_path: Any) -> None:
    out = tmp_path / "out"
    work(config(out, "iterations=3"))
    assert state(out)["calls"] == 9
    work(config(out, "iterations=5"))
    assert rows(out) == rows(whole)
    resumed = adapter(out)
    assert all(value.equal(resumed[name]) for name, value in adapter(whole).items())
    one, two = state(whole), state(out)
    assert one["calls"] == two["calls"] == 12
    for a, b in zip(one["answers"], two["answers"], strict=True):
        assert a["phi"].equal(b["phi"]) and a["scores"].equal(b["scores"])
    assert all(value.equal(two["surrogate"][name]) for name, value in one["surrogate"].items())


@pytest.mark.slow
def test_two_ranks_query_each_image_once(whole: Any, tmp_path: Any) -> None:
    out = tmp_path / "out"
    launch(config(out, "iterations=5", "devices=2", "method.replay_ratio=2"))
    one, two = state(whole), state(out)
    assert one["calls"] == two["calls"] == 12
    torch.testing.assert_close(one["answers"][0]["phi"], two["answers"][0]["phi"], atol=1e-5, rtol=0)
    assert one["answers"][0]["scores"].equal(two["answers"][0]["scores"])
    assert [float(row["train/queries"]) for row in rows(out)] == [5, 5, 9, 9, 12]
