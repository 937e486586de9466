"""How many samples go through the networks at once changes what fits into memory, not what an update is."""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from rdt.config.compose import conf_dir
from rdt.methods.base import Descent, Loss
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
SIZE, SAMPLES = 3, 8  # two micro-batches of 3 and what is left


class Rows:
    """The batch sizes that modules are called with."""

    def __init__(self, *modules: nn.Module) -> None:
        self.sizes: list[int] = []
        for module in modules:
            module.register_forward_pre_hook(lambda _, args: self.sizes.append(len(args[0])))


def updated(
    method: str, model: str, size: int | None, out: Path
) -> tuple[Experiment, dict[str, float], list[int], list[int]]:
    """An experiment after one update from a random adapter, what it logged, and the rows of network and reward."""
    given = ["logger=csv"] if size is None else ["logger=csv", f"micro_batch_size={size}"]
    given += [f"method.query_batch_size={size or SAMPLES}"] if method == "bbo" else []
    experiment = Experiment(minimal(out, f"method={method}", f"model={model}", f"batch_size={SAMPLES}", *given))
    tiny_policy.disturb(experiment.policy)
    network, reward = Rows(experiment.policy.network), Rows(experiment.method.reward, experiment.reward)
    told = tiny_policy.fit(experiment.method, 1).callback_metrics
    return experiment, {name: float(value) for name, value in told.items()}, network.sizes, reward.sizes


def gradient(experiment: Experiment) -> Tensor:
    return torch.cat([weight.grad.flatten() for weight in experiment.method.trained])


@pytest.mark.parametrize(("method", "model"), PAIRS)
def test_an_update_is_the_same_in_micro_batches(method: str, model: str, tmp_path: Path) -> None:
    whole, logged, network, reward = updated(method, model, None, tmp_path / "whole")
    parts, also_logged, small, scored = updated(method, model, SIZE, tmp_path / "parts")
    expected, found = gradient(whole), gradient(parts)
    assert expected.norm() > 0 and (found - expected).norm() < 1e-4 * expected.norm()
    assert also_logged == pytest.approx(logged, rel=1e-3, abs=1e-5)
    assert (parts.policy.passes, parts.policy.backward_passes) == (whole.policy.passes, whole.policy.backward_passes)
    assert max(network) >= SAMPLES and max(small) <= 2 * SIZE  # guidance doubles
    assert max(reward) == SAMPLES and max(scored) == SIZE


def test_a_sum_of_micro_batches_does_not_say_how_they_were_spread() -> None:
    """Two on one device, and one on each of two whose gradients are added: the same bits."""
    weight = nn.Parameter(tiny_policy.normal(5))
    data = tiny_policy.normal(2, 3, 4, 5, seed=1)  # (micro-batches, steps, samples, D)

    def descended(*micro_batches: Tensor) -> Descent:
        descent = Descent([weight], count=8)
        for steps in micro_batches:
            descent.add(Loss((x @ weight).sin(), {"x": x.sum(1)}) for x in steps)
        return descent

    together, one, other = descended(*data), descended(data[0]), descended(data[1])
    assert together.gradient[0].equal(one.gradient[0] + other.gradient[0])
    torch.testing.assert_close(together.seen["x"], data.sum() / 8)
    (expected,) = torch.autograd.grad((data @ weight).sin().sum() / 8, weight)
    torch.testing.assert_close(together.gradient[0], expected)


def test_a_device_without_samples_adds_nothing_and_names_what_the_others_saw() -> None:
    weight = nn.Parameter(torch.ones(2))
    descent = Descent([weight], count=4)
    descent.add([Loss(torch.zeros(0), {"reward": torch.zeros(0)})])
    assert descent.gradient[0].equal(torch.zeros(2))
    assert descent.loss == 0 and {name: value.item() for name, value in descent.seen.items()} == {"reward": 0}


def test_a_method_may_log_a_loss_of_its_own() -> None:
    weight = nn.Parameter(torch.ones(2))
    descent = Descent([weight], count=2)
    descent.add([Loss(weight * 3, {"loss": torch.tensor([1.0, 2.0])})])
    assert descent.loss == 3 and descent.seen["loss"] == 1.5
