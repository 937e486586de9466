"""DiffusionNFT and AWM against their laws on the Gaussian world, each other, and what their rollouts promise.

The gradient of a loss for a shift is linear in the noise e while no weight depends on the error, so that its mean over
e is the gradient at e = 0; six samples with the exact mean and covariance replace the mean over x_0.
"""

import re
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from rdt.config.plan import plan
from rdt.methods.awm import ANCHOR, AWM, ROLLOUT
from rdt.methods.forward_process import Noised
from rdt.methods.matching import Decay, Errors, Matching, Times
from rdt.methods.nft import NFT, OLD
from rdt.policy import Denoiser, Policy
from rdt.process import Flow, Process
from rdt.rewards.base import Reward
from rdt.rollout import Sampling
from rdt.training.experiment import Experiment
from rdt.training.folder import checkpoints
from rdt.training.launch import launch, work
from worlds import tiny_policy
from worlds.gaussian import ALPHA, MU, SIGMA, TILT, B, Linear, error, law, scales
from worlds.matched_gaussian import Matched, exact_samples, tilt
from worlds.smallest_run import adapter, minimal, rows

T = 6
PROCESSES: dict[str, Callable[[], Process]] = {"diffusion": tiny_policy.diffusion, "flow": Flow}
POLICIES = {"diffusion": tiny_policy.policy, "flow": tiny_policy.flow_policy}
SPREAD = (B @ SIGMA @ B).sqrt().item()  # u of a reward b . x on the data
SHARED: dict[str, Any] = {
    "group": 4, "std": "global", "signal": "all", "guidance_scale": 1.0, "num_steps": None, "updates_per_rollout": 1,
    "times": Times(2, 0, 1.0, "subset"), "space": "x0", "weight": "uniform", "kl_coef": 0.1, "kl_space": "own",
    "advantage_max": 5.0, "batch_size": 8, "micro_batch_size": None, "seed": 0, "lr": 0.01, "weight_decay": 0.0,
    "max_grad_norm": 1e9, "adam_eps": 1e-8,
}  # fmt: skip
OWN: dict[str, dict[str, Any]] = {
    "nft": {"beta": 1.0, "old": Decay(0.5, 0.001, 0)},
    "awm": {"clip": 1.0, "anchor_coef": 1.0, "anchor": Decay(0.3, 0.001, 0), "on_policy": True},
}
CLASSES: dict[str, type[Matching]] = {"nft": NFT, "awm": AWM}


class Constant(tiny_policy.Brightness):
    """Score every image alike."""

    def forward(self, images: Tensor, prompts: list[str]) -> Tensor:
        return 0 * super().forward(images, prompts) + 0.3


def method(name: str, policy: Any, reward: Reward | None = None, steps: int = 3, **changed: Any) -> Matching:
    """Return a method in its plainest form; `changed` replaces options."""
    reward = reward or (tiny_policy.Brightness() if isinstance(policy, Policy) else Linear())
    options = SHARED | OWN[name] | changed
    return CLASSES[name](policy=policy, reward=reward, sampling=Sampling(steps, 1.0, 3.0), **options)


def gaussian(name: str, process: str, **changed: Any) -> Matching:
    """Return a method on the Gaussian world whose snapshot is the base."""
    made = method(name, Matched(PROCESSES[process](), T), steps=T, **changed)
    made.policy.keep(made.SNAPSHOT)
    return made


def slopes(made: Matching, mean: Tensor) -> Tensor:
    """Return the exact gradient (T, 3) of the loss for the shift, on images of the data with this mean."""
    x0, found = exact_samples(mean), []
    advantages = (x0.flatten(1) - mean) @ B / SPREAD
    for i, t in enumerate(made.policy.grid):
        noised = Noised.of(made.policy.process, x0, torch.zeros_like(x0), t.expand(6), made.policy.encode([""] * 6))
        loss = made.matched(noised, advantages, made.grid[i + 1].expand(6)).losses.mean()
        found.append(torch.autograd.grad(loss, made.policy.shift)[0][i])
    return torch.stack(found)


def rests(made: Matching, mean: Tensor, shift: Tensor) -> bool:
    """Return whether the loss is stationary at a shift of tuned, beside its slope for the base."""
    found = []
    for values in (shift, torch.zeros_like(shift)):
        made.policy.shift.data = values.clone()
        found.append(slopes(made, mean).norm(dim=1))
    return bool((found[0] < 1e-3 * found[1]).all())


@pytest.mark.parametrize("process", PROCESSES)
@pytest.mark.parametrize(("space", "weight"), [("x0", "uniform"), ("velocity", "t"), ("noise", "t2")])
@pytest.mark.parametrize("beta", [1.0, 0.1])
def test_one_minimisation_of_nft_tilts_old_by_the_reward(process: str, space: str, weight: str, beta: float) -> None:
    if (process, space) == ("flow", "noise"):
        space = "velocity"  # at t = 1 a flow's noise says nothing of the image
    made = gaussian("nft", process, beta=beta, kl_coef=0.0, space=space, weight=weight)
    made.policy.shift.data = tilt(made.policy, ALPHA)  # any policy may be old
    made.policy.keep(OLD)
    mean = MU + TILT
    assert rests(made, mean, tilt(made.policy, ALPHA) + tilt(made.policy, 5 * beta * SPREAD))


@pytest.mark.parametrize("process", PROCESSES)
@pytest.mark.parametrize("name", CLASSES)
@pytest.mark.parametrize(("space", "weight"), [("x0", "uniform"), ("velocity", "t2")])
@pytest.mark.parametrize("advantage_max", [5.0, None])
def test_with_a_term_to_the_base_the_fixed_point_is_the_tilt(
    process: str, name: str, space: str, weight: str, advantage_max: float | None
) -> None:
    """The snapshot and the images are those of the tilt itself; alpha is kl_coef u, times AWM's division."""
    if name == "nft" and advantage_max is None:
        advantage_max = 9.0  # which the law does not depend on
    kl_coef = ALPHA / SPREAD / (advantage_max if name == "awm" and advantage_max else 1)
    made = gaussian(name, process, kl_coef=kl_coef, space=space, weight=weight, advantage_max=advantage_max)
    shift = tilt(made.policy, ALPHA)
    made.policy.shift.data = shift.clone()
    made.policy.keep(made.SNAPSHOT)
    assert rests(made, MU + TILT, shift)


@pytest.mark.parametrize("name", CLASSES)
def test_a_term_to_the_base_in_another_space_is_no_tilt(name: str) -> None:
    made = gaussian(name, "flow", kl_coef=0.2, space="x0", kl_space="velocity", advantage_max=5.0)
    shift = tilt(made.policy, 0.2 * SPREAD * (5.0 if name == "awm" else 1))
    made.policy.shift.data = shift.clone()
    made.policy.keep(made.SNAPSHOT)
    assert not rests(made, MU + TILT * ALPHA / (0.2 * SPREAD), shift)


@torch.no_grad()
def arrival(policy: Matched, view: Denoiser, mean: Tensor) -> Tensor:
    """Return the mean (3,) of the samples that the ODE makes of states with this mean, (3,): it is affine."""
    x, times = mean.view(1, 3, 1, 1), policy.process.times(len(policy.shift))
    for t, t_next in pairwise(times):
        x = policy.process.transition(view(x, t, policy.encode([""])), x, t, t_next, 0.0).mean
    return x.flatten()


@pytest.mark.parametrize("steps", [10, 40])
@pytest.mark.parametrize("process", PROCESSES)
def test_the_ode_moves_the_mean_by_the_tilt_at_every_number_of_steps(process: str, steps: int) -> None:
    """A diffusion's first state still holds alpha_T of the data: the tilt's own begins with as much of its shift."""
    policy = Matched(PROCESSES[process](), steps)
    policy.shift.data = tilt(policy, ALPHA)
    held = scales(policy.process, policy.grid[0])[0].item()
    moved = arrival(policy, policy.tuned, held * TILT) - arrival(policy, policy.base, torch.zeros(3))
    assert error(moved, TILT) < 1e-3
    (mean, covariance), (base, own) = (law(view, policy, 0.0) for view in (policy.tuned, policy.base))
    assert error(mean - base, TILT) < max(held, 1e-4) and error(covariance, own) < 1e-4


@pytest.mark.slow
@pytest.mark.parametrize("process", PROCESSES)
@pytest.mark.parametrize("name", CLASSES)
def test_training_comes_to_rest_near_the_tilt(name: str, process: str) -> None:
    """Rollouts have less than the data's covariance, by O(1 / T), and the tilt is that of their spread."""
    kl_coef = ALPHA / SPREAD / (5 if name == "awm" else 1)
    made = gaussian(
        name, process, kl_coef=kl_coef, batch_size=256, group=256, lr=0.05, times=Times(T, 0, 1.0, "subset")
    )
    path: list[Tensor] = []
    probe = tiny_policy.Probe(lambda *_: path.append(made.policy.shift.detach().clone()))
    tiny_policy.fit(made, 80, probe, prompts=[""])
    made.policy.shift.data = torch.stack(path[40:]).mean(0)
    mean, base = (law(view, made.policy, 0.0)[0] for view in (made.policy.tuned, made.policy.base))
    own = law(made.policy.base, made.policy, 0.0)[1]
    spread = (B @ own @ B).sqrt() / SPREAD
    assert error(mean - base, own @ B / ALPHA / spread) < 0.25


def errors(dims: int = 12, apart: float = 0.0, **own: Any) -> Errors:
    """Return errors of eight images whose tuned differs from the snapshot by `apart`."""
    old = tiny_policy.normal(8, dims)
    tuned = (old + apart * tiny_policy.normal(8, dims, seed=1)).requires_grad_()
    sigma, advantages = torch.linspace(0.1, 1, 8), 1.5 * tiny_policy.normal(8, seed=2).double()
    return Errors(tuned, old, sigma, advantages, (tuned - old).square().mean(1), **own)


def gradient(made: Matching, found: Errors) -> Tensor:
    """Return the gradient of the objective's sum for the errors of tuned."""
    return torch.autograd.grad(made.objective(found).sum(), found.tuned)[0]


@pytest.mark.parametrize("beta", [1.0, 0.1, 2.5])
@pytest.mark.parametrize("weight", ["uniform", "t", "t2"])
def test_where_old_is_tuned_the_gradient_of_nft_is_that_of_awm(beta: float, weight: str) -> None:
    policy, found = tiny_policy.policy(), errors()
    nft = method("nft", policy, beta=beta, weight=weight)
    awm = method("awm", policy, advantage_max=None, weight=weight, anchor_coef=0.0)
    torch.testing.assert_close(gradient(nft, found), gradient(awm, found), rtol=1e-4, atol=1e-5)


def test_away_from_old_nft_adds_the_distance_to_old() -> None:
    policy, found, beta, c = tiny_policy.policy(), errors(apart=0.5), 0.7, 5.0
    moved, advantages = (found.tuned - found.snapshot).detach(), found.advantages.float()[:, None]
    expected = (2 * advantages * found.snapshot + 2 * c * beta * moved) / moved.shape[1]
    nft = method("nft", policy, beta=beta, advantage_max=c)
    torch.testing.assert_close(gradient(nft, found), expected, rtol=1e-4, atol=1e-5)


def test_nft_of_clean_samples_is_five_times_awm_of_velocities_up_to_second_order() -> None:
    """Their losses differ by A / 5 times the square of tuned - anchor alone."""
    policy, process = tiny_policy.flow_policy(), Flow()
    x0, noise, t = tiny_policy.normal(8, 3), tiny_policy.normal(8, 3, seed=1), torch.linspace(0.2, 1, 8)
    noised = Noised.of(process, x0, noise, t, policy.encode(["p"] * 8))
    old = tiny_policy.normal(8, 3, seed=2)
    tuned = (old + 0.1 * tiny_policy.normal(8, 3, seed=3)).requires_grad_()
    advantages = tiny_policy.normal(8, seed=4).clamp(-3, 3)
    nft = method("nft", policy, space="x0")
    awm = method("awm", policy, space="velocity", weight="t2", clip=1e9)
    slope = [
        torch.autograd.grad(made.objective(made.compared(noised, tuned, old, advantages)).sum(), tuned)[0]
        for made in (nft, awm)
    ]
    second = 2 * advantages[:, None] / 5 * (t[:, None] ** 2 * (tuned - old).detach()) / 3
    torch.testing.assert_close(slope[1] - slope[0] / 5, second, rtol=1e-3, atol=1e-5)
    assert second.norm() < 0.2 * slope[1].norm()


def test_the_adaptive_weight_divides_by_the_mean_absolute_error() -> None:
    made, found = method("nft", tiny_policy.policy(), weight="adaptive"), errors()
    q, A = found.tuned.detach(), found.advantages
    p = (A / 10 + 0.5).clamp(0, 1)
    expected = 5 * (p + (1 - p)) * q.square().mean(1) / q.abs().mean(1)  # old = tuned: both policies have this error
    torch.testing.assert_close(made.objective(found).double(), expected.double(), rtol=1e-5, atol=1e-6)
    exact = replace(found, tuned=torch.zeros_like(q, requires_grad=True), snapshot=torch.zeros_like(q))
    assert gradient(made, exact).isfinite().all()


@pytest.mark.parametrize(("weight", "time"), [("uniform", 0), ("t", 1), ("t2", 2), ("huber", 1), ("ghuber", 1)])
def test_the_weights_of_awm_are_those_of_its_paper(weight: str, time: int) -> None:
    made, m, t = method("awm", tiny_policy.policy(), weight=weight), torch.tensor([0.3, 2.0]), torch.tensor([0.5, 0.9])
    shaped = {"huber": m**0.5 - 1e-5, "ghuber": 4 * (m**0.25 - 1e-10**0.25)}.get(weight, m)
    torch.testing.assert_close(-made.likelihood(m.sqrt()[:, None], t), t**time * shaped, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("signal", "expected"),
    [("all", [-2, 0, 0.5]), ("positive", [0, 0, 0.5]), ("negative", [-2, 0, 0]), ("binary", [-1, 0, 1])],
)
def test_signals_are_maps_of_the_advantages(signal: str, expected: list[float]) -> None:
    made = method("nft", tiny_policy.policy(), signal=signal, std="none")
    rewards = torch.tensor([[-2.0, 0.0, 0.5]]) - torch.tensor([-2.0, 0.0, 0.5]).mean()
    assert made.signal(torch.tensor([-2.0, 0.0, 0.5])).tolist() == expected
    assert made.advantages(rewards).shape == (1, 3)


def test_a_row_of_images_is_a_group_and_the_divisor_is_the_whole_rollouts() -> None:
    rewards = torch.tensor([[1.0, 3.0], [10.0, 20.0]])
    found = method("nft", tiny_policy.policy()).advantages(rewards)
    u = rewards.double().std(correction=0) + 1e-4
    assert found.sum(1).tolist() == [0, 0]
    torch.testing.assert_close(found, torch.tensor([[-1.0, 1.0], [-5.0, 5.0]]).double() / u)


def test_the_ratio_is_clipped_where_it_would_gain() -> None:
    made, found = method("awm", tiny_policy.policy(), clip=0.1, anchor_coef=0.0, advantage_max=None), errors()
    better = replace(found, acted=2 * found.snapshot, advantages=torch.ones(8))  # rho is far above 1
    assert not gradient(made, better).any()
    torch.testing.assert_close(made.objective(better), torch.full((8,), -1.1))


@pytest.mark.parametrize("scale", [1.0, 3.0])
@pytest.mark.parametrize("process", POLICIES)
@pytest.mark.parametrize(("name", "weight"), [("nft", "uniform"), ("nft", "adaptive"), ("awm", "ghuber")])
def test_equal_rewards_leave_tuned_where_it_is_bit_for_bit(name: str, weight: str, process: str, scale: float) -> None:
    policy = POLICIES[process](trained=False)
    made = method(name, policy, Constant(), guidance_scale=scale, weight=weight)
    tiny_policy.fit(made, 2)
    assert not any(value.any() for key, value in policy.lora().items() if "lora_B" in key)


@pytest.mark.parametrize("name", CLASSES)
def test_equal_rewards_pull_tuned_to_the_snapshot(name: str) -> None:
    """An image without an advantage keeps its loss: it is no sample to leave out."""
    made, found = method(name, tiny_policy.policy()), errors(apart=0.3)
    still = replace(found, advantages=torch.zeros(8))
    moved = (found.tuned - found.snapshot).detach()
    pull = gradient(made, still)
    torch.testing.assert_close(pull / pull.norm(), moved / moved.norm(), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("process", POLICIES)
@pytest.mark.parametrize("name", CLASSES)
def test_a_real_policy_learns(name: str, process: str) -> None:
    policy = POLICIES[process](trained=False)
    before = tiny_policy.brightness(policy)
    made = method(name, policy, batch_size=16, advantage_max=1.0, kl_coef=0.01, lr=0.02, old=Decay(0, 0, 0)) if (
        name == "nft"
    ) else method(name, policy, batch_size=16, advantage_max=1.0, kl_coef=0.01, lr=0.02)  # fmt: skip
    tiny_policy.fit(made, 12)
    assert tiny_policy.brightness(policy) > before + 0.002


PASSES = [
    ("nft", {}, 3), ("nft", {"kl_coef": 0.0}, 2), ("awm", {}, 3), ("awm", {"kl_coef": 0.0}, 2),
    ("awm", {"anchor_coef": 0.0}, 2), ("awm", {"kl_coef": 0.0, "anchor_coef": 0.0}, 1),
    ("awm", {"on_policy": False}, 3),
]  # fmt: skip


@pytest.mark.parametrize("scale", [1.0, 3.0])
@pytest.mark.parametrize(("name", "changed", "views"), PASSES)
def test_passes_are_those_of_the_views_that_count(name: str, changed: dict[str, Any], views: int, scale: float) -> None:
    """Without KL or anchor their views do not run; the unconditional branch of guidance has no backward pass."""
    policy, w = tiny_policy.policy(), 1 if scale == 1 else 2
    made = method(name, policy, guidance_scale=scale, num_steps=5, **changed)
    tiny_policy.fit(made, 2)
    assert (policy.passes, policy.backward_passes) == (2 * 8 * w * (5 + 2 * views), 2 * 8 * 2)
    assert made.images == 16


def test_later_updates_of_awm_also_run_the_policy_that_made_the_images() -> None:
    policy, seen = tiny_policy.policy(), []
    made = method("awm", policy, updates_per_rollout=2)
    probe = tiny_policy.Probe(lambda method, _: seen.append((policy.passes, policy.lora(ROLLOUT))))
    tiny_policy.fit(made, 2, probe)
    assert [passes for passes, _ in seen] == [8 * 3 + 4 * 2 * 3, 8 * 3 + 4 * 2 * 3 + 4 * 2 * 4]
    assert all(weight.equal(seen[0][1][key]) for key, weight in seen[1][1].items())


@pytest.mark.parametrize("process", POLICIES)
def test_updates_show_the_network_the_very_times_of_the_rollout(process: str) -> None:
    policy, seen = POLICIES[process](), {True: set(), False: set()}
    predict = policy._parts.predict

    def watched(network: Any, x: Tensor, t: Tensor, cond: Any) -> Tensor:
        seen[t.ndim == 0].update(t.flatten().tolist())
        return predict(network, x, t, cond)

    policy._parts = replace(policy._parts, predict=watched)
    tiny_policy.fit(method("nft", policy, times=Times(3, 0, 1.0, "subset")), 1)
    assert seen[True] == seen[False] and len(seen[True]) == 3


def test_times_are_a_subset_or_one_of_each_part() -> None:
    stream = torch.Generator().manual_seed(0)
    subset = Times(9, 0, 1.0, "subset")(200, 10, stream)
    assert {len(set(row)) for row in subset.tolist()} == {9}
    assert {45 - sum(row) for row in subset.tolist()} == set(range(10))  # another one is left out of each
    strata = Times(6, 0, 0.9, "strata")(200, 14, stream)
    assert (strata // 2).unique(dim=0).tolist() == [[0, 1, 2, 3, 4, 5]] and strata.max() == 11
    assert Times(6, 1, 0.9, "strata")(200, 14, stream).min() == 1
    assert set(Times(6, 1, 0.9, "strata")(200, 14, stream)[:, 5].tolist()) == {10, 11}


def test_a_snapshot_follows_by_its_schedule() -> None:
    first, second = Decay(0.5, 0.001, 0), Decay(0.999, 0.0075, 75)  # DiffusionNFT's type 1 and 2
    assert [first(n) for n in (0, 100, 900)] == [0, 0.1, 0.5]
    assert [round(second(n), 6) for n in (0, 75, 115, 1000)] == [0, 0, 0.3, 0.999]


@pytest.mark.parametrize(("name", "snapshot", "key"), [("nft", OLD, "old"), ("awm", ANCHOR, "anchor")])
def test_the_snapshot_moves_once_after_all_updates_of_a_rollout(name: str, snapshot: str, key: str) -> None:
    policy, path = tiny_policy.policy(), []

    def look(*_: Any) -> None:
        path.append([{k: v.clone() for k, v in policy.lora(which).items()} for which in (snapshot, "tuned")])

    made = method(name, policy, updates_per_rollout=2, **{key: Decay(0.9, 0.2, 0)})
    tiny_policy.fit(made, 4, tiny_policy.Probe(look))
    for k, (before, after) in enumerate(pairwise(path)):
        for weight, moved in after[0].items():
            d = min(0.9, 0.2 * (k + 2)) if k % 2 == 0 else 1.0
            torch.testing.assert_close(moved, d * before[0][weight] + (1 - d) * after[1][weight], rtol=0, atol=1e-7)
    assert not all(path[0][0][weight].equal(path[-1][0][weight]) for weight in path[0][0])


BAD = [
    ("nft", {"group": 1}, r"method\.group=1 must be at least 2: a group is its own baseline"),
    ("nft", {"beta": 0.0}, r"method\.beta=0\.0 must be greater than 0"),
    ("nft", {"weight": "ghuber"}, r"method\.weight=ghuber is not one of uniform, t, t2, adaptive"),
    ("awm", {"weight": "adaptive"}, r"method\.weight=adaptive is not one of uniform, t, t2, huber, ghuber"),
    ("awm", {"space": "latent"}, r"method\.space=latent is not one of x0, velocity, noise"),
    ("awm", {"advantage_max": 0.0}, r"method\.advantage_max=0\.0 must be greater than 0 or null"),
    ("awm", {"on_policy": False, "anchor_coef": 0.0}, r"method\.on_policy=false samples the anchor, and .*"),
    ("nft", {"updates_per_rollout": 3}, r"batch_size=8 must be a multiple of method\.updates_per_rollout=3"),
    ("nft", {"times": Times(4, 0, 1.0, "subset")}, r"method\.times\.count=4 must be from 1 to 3, the times that .*"),
]


@pytest.mark.parametrize(("name", "changed", "message"), BAD)
def test_bad_options_are_refused_in_one_line(name: str, changed: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"^{message}$"):
        method(name, tiny_policy.policy(), **changed)


def counted(text: str) -> int:
    """Return the passes of training that a plan foresees."""
    return sum(int(found.replace(",", "")) for found in re.findall(r"(?:sample for|learn from) that: ([\d,]+)", text))


@pytest.mark.parametrize("name", CLASSES)
@pytest.mark.parametrize(
    "overrides", [(), ("method.updates_per_rollout=2", "method.guidance_scale=2"), ("method.kl_coef=0",)], ids=str
)
def test_a_dry_run_foresees_the_passes_that_a_run_counts(name: str, overrides: tuple[str, ...], tmp_path: Path) -> None:
    cfg = minimal(tmp_path / "out", f"method={name}", "logger=csv", "iterations=3", *overrides)
    foreseen, experiment = counted(plan(cfg)), Experiment(cfg)
    tiny_policy.fit(experiment.method, 3)
    assert foreseen == experiment.policy.passes > 0


def config(out: Path, name: str, *overrides: str) -> Any:
    settings = (
        "logger=csv",
        "iterations=4",
        "batch_size=4",
        "trainer.checkpoint_every=1",
        "method.updates_per_rollout=2",
    )
    return minimal(out, f"method={name}", *settings, "reward=gold", *overrides)


@pytest.mark.parametrize("name", ["nft", pytest.param("awm", marks=pytest.mark.slow)])
def test_a_run_resumes_within_a_rollout_bit_for_bit(name: str, tmp_path: Path) -> None:
    whole, out = tmp_path / "whole", tmp_path / "out"
    work(config(whole, name))
    work(config(out, name, "iterations=3"))
    work(config(out, name))
    assert all(tensor.equal(adapter(out)[key]) for key, tensor in adapter(whole).items()) and rows(out) == rows(whole)
    states = [torch.load(checkpoints(one)[-1] / "run.ckpt", weights_only=True) for one in (whole, out)]
    assert states[0]["passes"] == states[1]["passes"]
    kept = states[0]["snapshots"]
    assert CLASSES[name].SNAPSHOT in kept and "ema" in kept
    assert all(w.equal(states[1]["snapshots"][key][k]) for key in kept for k, w in kept[key].items())


@pytest.mark.slow
@pytest.mark.parametrize("name", CLASSES)
def test_two_ranks_train_what_one_does(name: str, tmp_path: Path) -> None:
    work(config(tmp_path / "alone", name, "micro_batch_size=2"))
    launch(config(tmp_path / "two", name, "devices=2"))
    found = [adapter(tmp_path / which) for which in ("alone", "two")]
    assert all(tensor.equal(found[1][key]) for key, tensor in found[0].items())


def test_a_run_evaluates_the_base_under_both_scales_of_guidance(tmp_path: Path) -> None:
    guided = "model.sampling.guidance_scale=3"
    experiment = Experiment(minimal(tmp_path / "out", "method=nft", "logger=csv", guided))
    x, cond = tiny_policy.normal(1, *experiment.policy.latent_shape), experiment.policy.encode(["a circle"])
    t = experiment.method.times[1]
    passes = {}
    for name, view in {"base": experiment.base, **{k: p.denoiser for k, p in experiment.curve().items()}}.items():
        before = experiment.policy.passes
        with torch.no_grad():
            view(x, t, cond)
        passes[name] = experiment.policy.passes - before
    assert list(passes.values()) == [2, 1, 1]
