"""Black-box optimisation: calls are counted once each and end at the budget; rounds query, fit and start over."""

import itertools
import json
from typing import Any

import pytest
import torch
from torch import Tensor

from rdt.methods.bbo import BBO
from rdt.rewards.base import Reward
from rdt.rewards.surrogate import BudgetedOracle, BudgetExceeded
from rdt.rollout import Sampling
from rdt.training import folder
from rdt.training.launch import launch, work
from rewards.test_surrogate import surrogate
from worlds import tiny_policy
from worlds.smallest_run import adapter, minimal, rows

PROMPT = ["a circle"]


class Oracle(tiny_policy.Brightness):
    """Brightness, which takes down what it is shown."""

    def __init__(self, differentiable: bool = False) -> None:
        super().__init__()
        self.differentiable = differentiable
        self.seen: list[Tensor] = []
        self.with_gradient: list[bool] = []

    def forward(self, images: Tensor, prompts: list[str]) -> Tensor:
        self.seen += images.unbind()
        self.with_gradient.append(torch.is_grad_enabled())
        return super().forward(images, prompts)


def bbo(oracle: Reward | None = None, kind: str = "ucb", steps: int = 5, **changed: Any) -> BBO:
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
    """The oracle's count after each iteration."""
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
def test_the_budget_is_asked_for_and_never_exceeded(
    queries: list[int], budget: int, query_batch_size: int, expected: list[int]
) -> None:
    oracle = Oracle()
    method = bbo(oracle, queries=queries, budget=budget, query_batch_size=query_batch_size)
    assert calls(method, 5) == expected
    assert len(oracle.seen) == expected[-1] <= budget
    assert sum(len(answers.scores) for answers in method.answers) == expected[-1]
    assert not any(a.equal(b) for a, b in itertools.combinations(oracle.seen, 2))  # no image twice


def test_one_call_too_many_is_refused_before_it_is_made() -> None:
    inside = Oracle()
    oracle = BudgetedOracle(oracle=inside, budget=3)
    oracle(torch.rand(2, 3, 4, 4), PROMPT * 2)
    with pytest.raises(BudgetExceeded, match=r"^2 calls exceed the 1 left of method\.budget=3$"):
        oracle(torch.rand(2, 3, 4, 4), PROMPT * 2)
    assert (oracle.calls, oracle.left, len(inside.seen)) == (2, 1, 2)


@pytest.mark.parametrize("differentiable", [False, True])
def test_an_oracle_is_a_black_box_even_where_it_has_a_gradient(differentiable: bool) -> None:
    oracle = Oracle(differentiable)
    calls(bbo(oracle), 3)
    assert oracle.with_gradient and not any(oracle.with_gradient)
    images = torch.rand(1, 3, 4, 4, requires_grad=True)
    assert not BudgetedOracle(oracle=oracle, budget=1)(images, PROMPT).requires_grad


def test_a_round_learns_anew_from_every_answer() -> None:
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


def test_the_policy_is_asked_about_as_it_is() -> None:
    """Images of the second round show what the first round taught; those of the first are the base's."""
    found = []
    for lr in (0.0, 1e-2):
        method = bbo(lr=lr)
        tiny_policy.fit(method, 3)
        found.append([answers.scores for answers in method.answers])
    assert found[0][0].equal(found[1][0]) and not found[0][1].equal(found[1][1])


def test_the_estimate_of_fit_comes_before_the_fit() -> None:
    told: list[dict[str, float]] = []
    method = bbo(queries=[30, 30], budget=60, updates_per_round=1)
    trainer = tiny_policy.fit(method, 2, tiny_policy.Probe(lambda method, _: told.append(dict(method.told))))
    assert told[0].keys() == {"queries", "oracle"} and told[1].keys() == {"queries", "oracle", "correlation"}
    assert trainer.callback_metrics["train/oracle"].item() == pytest.approx(method.answers[1].scores.mean().item())
    other = surrogate("ucb")
    other.fit(method.answers[0].phi, method.answers[0].scores, torch.Generator())
    pair = torch.stack([other.estimate(method.answers[1].phi)[0], method.answers[1].scores])
    assert told[1]["correlation"] == pytest.approx(torch.corrcoef(pair)[0, 1].item(), abs=1e-4)


@pytest.mark.parametrize("kind", ["bootstrap", "ucb"])
def test_a_black_box_is_climbed(kind: str) -> None:
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
def test_what_cannot_work_is_refused_in_one_line(changed: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"^{message}$"):
        bbo(**changed)


def config(out: Any, *overrides: str) -> Any:
    """experiment=bbo at minimal size: rounds at iterations 0, 2 and 4, the last cut short by the budget."""
    rounds = ("method.queries=[5,4,6]", "method.budget=12", "method.updates_per_round=2", "method.query_batch_size=3")
    return minimal(out, "experiment=bbo", "logger=csv", *rounds, *overrides)


def state(out: Any) -> dict[str, Any]:
    return torch.load(folder.checkpoints(out)[-1] / "run.ckpt", weights_only=True)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Five iterations in one go."""
    out = tmp_path_factory.mktemp("whole") / "out"
    work(config(out, "iterations=5"))
    return out


def test_the_experiment_runs_and_says_what_it_asked(whole: Any) -> None:
    assert [float(row["train/queries"]) for row in rows(whole)] == [5, 5, 9, 9, 12]
    assert "train/correlation" in rows(whole)[0] and rows(whole)[0]["train/correlation"] == ""
    result = json.loads((whole / "result.json").read_text())
    assert (result["method"], result["reward"]) == ("bbo", "gold") and "gold" in result["points"][0]["reward"]


def test_answers_are_saved_as_soon_as_they_are_paid_for(whole: Any) -> None:
    """Long before the checkpoint that is due after 50 iterations; the latest two are kept."""
    assert [path.name for path in folder.checkpoints(whole)] == ["000003", "000005"]


@pytest.mark.slow
def test_a_run_goes_on_in_the_middle_of_a_round_bit_for_bit(whole: Any, tmp_path: Any) -> None:
    out = tmp_path / "out"
    work(config(out, "iterations=3"))
    assert state(out)["calls"] == 9
    work(config(out, "iterations=5"))
    assert rows(out) == rows(whole)
    learnt = adapter(out)
    assert all(value.equal(learnt[name]) for name, value in adapter(whole).items())
    one, two = state(whole), state(out)
    assert one["calls"] == two["calls"] == 12
    for a, b in zip(one["answers"], two["answers"], strict=True):
        assert a["phi"].equal(b["phi"]) and a["scores"].equal(b["scores"])
    assert all(value.equal(two["surrogate"][name]) for name, value in one["surrogate"].items())


@pytest.mark.slow
def test_two_processes_ask_once_about_each_image(whole: Any, tmp_path: Any) -> None:
    out = tmp_path / "out"
    launch(config(out, "iterations=5", "devices=2", "method.replay_ratio=2"))
    one, two = state(whole), state(out)
    assert one["calls"] == two["calls"] == 12
    torch.testing.assert_close(one["answers"][0]["phi"], two["answers"][0]["phi"], atol=1e-5, rtol=0)
    assert one["answers"][0]["scores"].equal(two["answers"][0]["scores"])
    assert [float(row["train/queries"]) for row in rows(out)] == [5, 5, 9, 9, 12]
