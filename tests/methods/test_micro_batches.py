"""The size of micro-batches changes how much memory an update needs, not the update."""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from rdt.config.compose import conf_dir
from rdt.methods.base import Accumulator, Loss, Share
from rdt.training.experiment import Experiment
from worlds import tiny_policy
from worlds.smallest_run import minimal

METHODS = [file.stem for file in sorted((Path(conf_dir()) / "method").glob("*.yaml"))]
FAST = {("draft_lv", "shapes"), ("sqdf", "shapes"), ("drift", "shapes_flow")}
PAIRS = [
    pytest.param(method, model, marks=[pytest.mark.slow] * ((method, model) not in FAST))
    for method in METHODS
    for model in ("shapes", "shapes_flow")
]
SIZE, SAMPLES = 3, 8  # two micro-batches of 3, and one of the 2 that are left


class Rows:
    """Record the batch sizes that modules are called with."""

    def __init__(self, *modules: nn.Module) -> None:
        self.sizes: list[int] = []
        for module in modules:
            module.register_forward_pre_hook(lambda _, args: self.sizes.append(len(args[0])))


def updated(
    method: str, model: str, size: int | None, out: Path
) -> tuple[Experiment, dict[str, float], list[int], list[int]]:
    """Return an experiment after one update of a random adapter, its log, and the batch sizes of network and reward."""
    given = ["logger=csv"] if size is None else ["logger=csv", f"micro_batch_size={size}"]
    own = {"bbo": ["method.query_batch_size"], "tilt": ["method.images=8", "method.sample_batch_size"]}
    given += [word if "=" in word else f"{word}={size or SAMPLES}" for word in own.get(method, [])]
    experiment = Experiment(minimal(out, f"method={method}", f"model={model}", f"batch_size={SAMPLES}", *given))
    tiny_policy.disturb(experiment.policy)
    network, reward = Rows(experiment.policy.network), Rows(experiment.method.reward, experiment.reward)
    logged = tiny_policy.fit(experiment.method, 1).callback_metrics
    return experiment, {name: float(value) for name, value in logged.items()}, network.sizes, reward.sizes


def gradient(experiment: Experiment) -> Tensor:
    """Return the gradient of all trained weights in one vector."""
    return torch.cat([weight.grad.flatten() for weight in experiment.method.trained])


@pytest.mark.parametrize(("method", "model"), PAIRS)
def test_an_update_is_the_same_in_micro_batches(method: str, model: str, tmp_path: Path) -> None:
    whole, logged, network, reward = updated(method, model, None, tmp_path / "whole")
    parts, also_logged, small, scored = updated(method, model, SIZE, tmp_path / "parts")
    expected, found = gradient(whole), gradient(parts)
    assert expected.norm() > 0 and (found - expected).norm() < 1e-4 * expected.norm()
    assert also_logged == pytest.approx(logged, rel=1e-3, abs=1e-5)
    assert (parts.policy.passes, parts.policy.backward_passes) == (whole.policy.passes, whole.policy.backward_passes)
    assert max(network) >= SAMPLES and max(small) <= 2 * SIZE  # guidance doubles a batch
    assert max(reward) == SAMPLES and max(scored) == SIZE


def test_a_sum_of_micro_batches_does_not_depend_on_their_ranks() -> None:
    """Two micro-batches on one rank give the same bits as one on each of two ranks whose gradients are added."""
    weight = nn.Parameter(tiny_policy.normal(5))
    data = tiny_policy.normal(2, 3, 4, 5, seed=1)  # (micro-batches, steps, samples, D)

    def accumulated(*micro_batches: Tensor) -> Accumulator:
        total = Accumulator([weight], count=8)
        for steps in micro_batches:
            total.add(Loss((x @ weight).sin(), {"x": x.sum(1)}) for x in steps)
        return total

    together, one, other = accumulated(*data), accumulated(data[0]), accumulated(data[1])
    assert together.gradient[0].equal(one.gradient[0] + other.gradient[0])
    torch.testing.assert_close(together.metrics["x"], data.sum() / 8)
    (expected,) = torch.autograd.grad((data @ weight).sin().sum() / 8, weight)
    torch.testing.assert_close(together.gradient[0], expected)


def test_a_rank_without_samples_adds_nothing_and_names_the_same_metrics() -> None:
    weight = nn.Parameter(torch.ones(2))
    total = Accumulator([weight], count=4)
    total.add([Loss(torch.zeros(0), {"reward": torch.zeros(0)})])
    assert total.gradient[0].equal(torch.zeros(2))
    assert total.loss == 0 and {name: value.item() for name, value in total.metrics.items()} == {"reward": 0}


def test_a_method_may_log_a_metric_named_loss() -> None:
    weight = nn.Parameter(torch.ones(2))
    total = Accumulator([weight], count=2)
    total.add([Loss(weight * 3, {"loss": torch.tensor([1.0, 2.0])})])
    assert total.loss == 3 and total.metrics["loss"] == 1.5


@pytest.mark.parametrize("size", [None, 1, 3, 100])
@pytest.mark.parametrize("world", [1, 2, 4])
def test_micro_batches_of_all_ranks_are_all_rows_in_order(world: int, size: int | None) -> None:
    shares = [Share(rank, world, size) for rank in range(world)]
    micro_batches = [rows for share in shares for rows in share.micro_batches(8)]
    assert [row for rows in micro_batches for row in rows] == list(range(8))
    assert max(map(len, micro_batches)) <= (size or 8)
    for share in shares:
        assert [row for rows in share.micro_batches(8) for row in rows] == list(share.rows(8))
        assert len(share.rows(8)) == 8 // world


def test_samples_that_do_not_divide_over_the_ranks_are_refused() -> None:
    with pytest.raises(ValueError, match=r"^6 samples do not divide over 4 devices; change batch_size$"):
        Share(0, 4, None).rows(6)
    assert Share(1, 4, 2).micro_batches(0) == []
