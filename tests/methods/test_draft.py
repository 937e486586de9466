"""DRaFT, DRaFT-LV and DRaFT+ against gradients that are known by hand, and against their cost in passes.

In the Gaussian world a step is affine, x_{i+1} = M_i x_i + C_i shift_i + noise, so x_T moves with shift_i by
C_i J_{i+1}, J_{i+1} = M_{T-1} .. M_{i+1}. For the reward b . x_T, DRaFT's gradient is C_i J_{i+1}^T b at the last K
steps and 0 before them. DRaFT+ with K = T maximises E[b . x_T] - alpha sum_i KL_i, alpha = kl_coef / dims, where the
KL of step i is |C_i shift_i|^2 / (2 std_i^2). Its maximum is C_i shift_i = std_i^2 J_{i+1}^T b / alpha, whose samples
are the base's moved by S b / alpha, that is, tilted by exp(b . x / alpha). S is the covariance that the noise of the
steps contributes: all of x_T's except J_0 J_0^T, what x_0 leaves in it, which many steps forget.
"""

import dataclasses
import json
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from rdt.methods.base import Method
from rdt.methods.draft import Draft, DraftLV
from rdt.methods.draft_plus import DraftPlus
from rdt.policy import Adapter, Policy
from rdt.process import Diffusion
from rdt.rollout import Sampling
from rdt.training.launch import launch, work
from worlds import gaussian, tiny_policy
from worlds.gaussian import ALPHA, DIMS, B, affine
from worlds.smallest_run import adapter, minimal

T = 6
POLICIES = {"diffusion": tiny_policy.policy, "flow": tiny_policy.flow_policy}
OWN: dict[type[Method], dict[str, Any]] = {
    Draft: {"K": 1},
    DraftLV: {"repeats": 2},
    DraftPlus: {"K": 1, "kl_coef": 0.5, "kl_min_std": 0.0},
}

both_processes = pytest.mark.parametrize("make", POLICIES.values(), ids=POLICIES)


def method(
    kind: type[Method], policy: Any, *, num_steps: int = 4, eta: float = 1.0, guidance: float = 1.0, **own: Any
) -> Any:
    """Return a method of a kind; `own` replaces options."""
    shared: dict[str, Any] = {
        "reward": tiny_policy.Brightness() if isinstance(policy, Policy) else gaussian.Linear(),
        "batch_size": 4, "seed": 0, "lr": 0.0, "weight_decay": 0.0, "max_grad_norm": 1e9,
        "adam_eps": 1e-8, "micro_batch_size": None,
    }  # fmt: skip
    return kind(policy=policy, sampling=Sampling(num_steps, eta, guidance), **(shared | OWN[kind] | own))


def gradients(method: Method, iterations: int = 1) -> Tensor:
    """Return the gradients (iterations, D) of training on one prompt."""
    found: list[Tensor] = []
    probe = tiny_policy.Probe(lambda method, _: found.append(flat(method)))
    tiny_policy.fit(method, iterations, probe, prompts=["a circle"])
    return torch.stack(found)


def flat(method: Method) -> Tensor:
    """Return the gradient of all trained weights in one vector."""
    return torch.cat([p.grad.flatten() for p in method.trained if p.grad is not None])


def late_diffusion() -> Policy:
    """Return a diffusion policy whose last step starts a third of the way from clean."""
    parts = tiny_policy.parts()
    alphas = (1 - tiny_policy.BETAS).cumprod(0).float()
    process = Diffusion(alphas_cumprod=alphas, prediction="epsilon", steps_offset=300)
    policy = Policy(dataclasses.replace(parts, process=process), Adapter(2, 2, tiny_policy.TARGETS))
    tiny_policy.disturb(policy)
    return policy


@both_processes
def test_with_every_step_the_gradient_is_autograds_through_a_plain_rollout(make: Callable[[], Policy]) -> None:
    policy = make()
    found = gradients(method(Draft, policy, K=4, guidance=3.0))[0]
    ours = method(Draft, policy, K=4, guidance=3.0)
    expected: list[Tensor] = []

    def look(_: Method, batch: Any) -> None:
        noise, cond = ours.noise(batch), policy.encode(batch.prompts)
        x, view = noise.initial(), ours.guided(policy.tuned)
        for i, (t, t_next) in enumerate(pairwise(policy.process.times(4))):
            x = policy.process.transition(view(x, t, cond), x, t, t_next, 1.0).sample(noise.step(i))
        loss = -policy.decode(x).mean()
        expected.append(torch.cat([g.flatten() for g in torch.autograd.grad(loss, ours.trained)]))

    tiny_policy.fit(ours, 1, tiny_policy.Probe(look), prompts=["a circle"])
    assert expected[0].norm() > 1e-4
    torch.testing.assert_close(found, expected[0], rtol=1e-4, atol=1e-7)


@both_processes
def test_checkpointed_blocks_give_the_same_gradient(make: Callable[[], Policy]) -> None:
    plain, checkpointed = make(), make()
    checkpointed.checkpoint_blocks()
    for kind in (Draft, DraftPlus):  # DRaFT+ has two views in one graph
        found = [gradients(method(kind, policy, K=3, guidance=3.0))[0] for policy in (plain, checkpointed)]
        torch.testing.assert_close(*found, rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("K", [1, 2, T])
def test_the_gradient_is_the_analytic_one_at_the_last_steps_and_zero_before_them(K: int) -> None:
    policy = gaussian.world(T)
    tiny_policy.disturb(policy)
    steps = affine(policy.base, policy)
    found = gradients(method(Draft, policy, num_steps=T, K=K))[0].view(T, 3)
    expected = -steps.C[:, None] * (steps.J.mT @ B)
    torch.testing.assert_close(found[T - K :], expected[T - K :], rtol=1e-4, atol=1e-6)
    assert not found[: T - K].any()


def test_repeats_estimate_the_same_gradient() -> None:
    policy = gaussian.world(T)
    found = [gradients(m)[0] for m in (method(Draft, policy, num_steps=T), method(DraftLV, policy, num_steps=T))]
    torch.testing.assert_close(*found)  # equal, since the reward's gradient is the same at every image


@pytest.mark.parametrize("make", [late_diffusion, tiny_policy.flow_policy])
def test_repeats_lower_the_variance_of_the_gradient(make: Callable[[], Policy]) -> None:
    """The variance is relative to the squared mean; the gain depends on how much the last step's noise matters."""
    policy = make()
    once, repeated = (gradients(method(kind, policy, num_steps=3), 8) for kind in (Draft, DraftLV))
    assert relative_variance(repeated) < relative_variance(once)
    assert torch.cosine_similarity(repeated.mean(0), once.mean(0), 0) > 0.99


def relative_variance(found: Tensor) -> float:
    """Return the variance of gradients (n, D) over the square of their mean."""
    return (found.var(0).sum() / found.mean(0).square().sum()).item()


@both_processes
@pytest.mark.parametrize(
    ("kind", "own", "forward", "backward"),
    [
        (Draft, {"K": 1}, 4, 1),
        (Draft, {"K": 3}, 4, 3),
        (Draft, {"K": 4}, 4, 4),
        (DraftLV, {"repeats": 2}, 4 + 2, 1 + 2),
        (DraftPlus, {"K": 1}, 4 + 1, 1),
        (DraftPlus, {"K": 3}, 4 + 3, 3 + 2),  # the base too carries gradient, except at the first state
    ],
)
def test_an_update_costs_the_passes_of_sampling_and_of_its_gradient(
    make: Callable[[], Policy], kind: type[Method], own: dict[str, Any], forward: int, backward: int
) -> None:
    policy = make()
    tiny_policy.fit(method(kind, policy, guidance=3.0, **own), 2)
    assert [policy.passes, policy.backward_passes] == [2 * 4 * 2 * forward, 2 * 4 * 2 * backward]


@both_processes
def test_with_a_coefficient_of_zero_the_kl_is_only_logged(make: Callable[[], Policy]) -> None:
    policy = make()
    plain, plus = (method(kind, policy, K=2) for kind in (Draft, DraftPlus))
    plus.kl_coef = 0.0
    torch.testing.assert_close(gradients(plus), gradients(plain))
    assert tiny_policy.fit(plus, 1).callback_metrics["train/kl_nats"] > 0
    assert tiny_policy.fit(method(DraftPlus, make(trained=False)), 1).callback_metrics["train/kl_nats"] == 0


def test_with_every_step_the_kl_is_that_of_the_path_and_the_optimum_is_the_tilted_base() -> None:
    policy = gaussian.world(T)
    base = affine(policy.base, policy)
    draft_plus = method(DraftPlus, policy, num_steps=T, K=T, kl_coef=ALPHA * DIMS)
    start = gradients(draft_plus)[0].view(T, 3)
    policy.shift.data = (base.std**2 / base.C)[:, None] * (base.J.mT @ B) / ALPHA
    trainer = tiny_policy.fit(draft_plus, 1, tiny_policy.Probe(lambda method, _: None))
    assert (flat(draft_plus).view(T, 3).norm(dim=1) < 1e-3 * start.norm(dim=1)).all()  # at every single step
    (mean, covariance), (base_mean, base_covariance) = affine(policy.tuned, policy).law, base.law
    S = base_covariance - base.remembered
    torch.testing.assert_close(mean - base_mean, S @ B / ALPHA, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(covariance, base_covariance)
    nats = (B @ S @ B / (2 * ALPHA**2)).item()
    assert trainer.callback_metrics["train/kl_nats"].item() == pytest.approx(nats, rel=1e-3)


@both_processes
@pytest.mark.parametrize("kind", OWN)
def test_a_real_policy_learns(make: Callable[..., Policy], kind: type[Method]) -> None:
    policy = make(trained=False)
    before = tiny_policy.brightness(policy)
    own = {"kl_coef": 1e-4} if kind is DraftPlus else {}
    tiny_policy.fit(method(kind, policy, num_steps=3, lr=0.02, guidance=3.0, **own), 8)
    assert tiny_policy.brightness(policy) > before + 0.002


@pytest.mark.slow
def test_two_ranks_learn_what_one_does(tmp_path: Path) -> None:
    settings = ("method=draft_plus", "method.K=2", "method.kl_coef=0.05", "method.lr=0.005", "logger=csv")
    work(minimal(tmp_path / "alone", *settings))
    launch(minimal(tmp_path / "two_ranks", *settings, "devices=2"))
    weights = [adapter(tmp_path / name) for name in ("alone", "two_ranks")]
    for name, tensor in weights[0].items():
        torch.testing.assert_close(weights[1][name], tensor, rtol=0, atol=1e-5)
    assert max(tensor.abs().max() for name, tensor in weights[0].items() if "lora_B" in name) > 2e-4  # from 0
    spent = [json.loads((tmp_path / name / "result.json").read_text())["compute"] for name in ("alone", "two_ranks")]
    assert spent[0]["network_passes"] == spent[1]["network_passes"]
    assert spent[0]["backward_passes"] == spent[1]["backward_passes"]


class Count(tiny_policy.Brightness):
    differentiable = False


@pytest.mark.parametrize(
    ("kind", "own", "message"),
    [
        (Draft, {"reward": Count()}, r"Draft climbs the reward's gradient, and Count has none;.*"),
        (DraftLV, {"reward": Count()}, r"DraftLV climbs the reward's gradient, and Count has none;.*"),
        (DraftPlus, {"reward": Count()}, r"DraftPlus climbs the reward's gradient, and Count has none;.*"),
        (Draft, {"K": 0}, r"method\.K=0 must be from 1 to model\.sampling\.num_steps=4"),
        (Draft, {"K": 5}, r"method\.K=5 must be from 1 to model\.sampling\.num_steps=4"),
        (DraftLV, {"repeats": 0}, r"method\.repeats=0 must be at least 1; without repeats it is method=draft"),
        (DraftPlus, {"eta": 0.0}, r"method\.kl_coef=0\.5 has no KL to weigh at model\.sampling\.eta=0: .*"),
    ],
)
def test_bad_options_are_refused_in_one_line(kind: type[Method], own: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"^{message}$"):
        method(kind, tiny_policy.policy(), **own)
