"""Adjoint Matching and its other targets against chains that are known by hand, DRaFT's gradient, and their cost.

In the Gaussian world a step is affine, x_{i+1} = M_i x + C_i shift_i + noise, and P_{i+1} = d x_T / d x_{i+1} is a
product of the M. For the reward b . x_T the loss of step i is a parabola in shift_i, with the slope -C_i g_{i+1} where
tuned is the base, and the curvature alpha C_i^2 / std_i^2. So one Newton step reaches the optimum of all steps.
"""

import dataclasses
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from rdt.config.plan import plan
from rdt.methods.adjoint import AdjointMatching, StepDraw, Target
from rdt.methods.base import Method, Share
from rdt.methods.draft import Draft
from rdt.methods.draft_plus import DraftPlus
from rdt.policy import Adapter, Policy
from rdt.process import Flow, Process
from rdt.rollout import Sampling, replayed
from rdt.stream import Batch
from rdt.training.experiment import Experiment
from worlds import gaussian, tiny_policy
from worlds.gaussian import ALPHA, DIMS, SIGMA, Affine, B, affine, error
from worlds.smallest_run import minimal

POLICIES = {"diffusion": tiny_policy.policy, "flow": tiny_policy.flow_policy}
PROCESSES: dict[str, Process] = {
    "ddim": tiny_policy.diffusion(),
    "flow_sde": Flow(),
    "cps": Flow(sampler="cps"),
    "posterior": Flow(sampler="posterior", shift=3.0),
}
SHARED = {
    "batch_size": 4, "seed": 0, "lr": 0.0, "weight_decay": 0.0, "max_grad_norm": 1e9, "adam_eps": 1e-8,
    "micro_batch_size": None,
}  # fmt: skip
OWN = {
    "target": "adjoint", "kl_coef": ALPHA * DIMS, "eta": 1.0, "num_steps": None, "guidance_scale": None,
    "guided_adjoint": False, "prompt_dropout": 0.0, "early": None, "late": None, "late_share": 0.4, "index": "next",
    "reward_at": "sample", "max_target": None, "look_ahead": "tweedie", "look_ahead_view": "base",
    "look_ahead_scale": "none",
}  # fmt: skip
TARGETS = ("adjoint", "look_ahead", "clean")

both_processes = pytest.mark.parametrize("make", POLICIES.values(), ids=POLICIES)
every_process = pytest.mark.parametrize("process", PROCESSES.values(), ids=PROCESSES)


def built(kind: type[Method], policy: Any, options: dict[str, Any]) -> Any:
    """Return a method of a kind; the options may hold the model's num_steps, eta and guidance."""
    sampling = Sampling(options.pop("steps", 4), options.pop("model_eta", 1.0), options.pop("guidance", 1.0))
    reward = tiny_policy.Brightness() if isinstance(policy, Policy) else gaussian.Linear()
    return kind(policy=policy, sampling=sampling, **({"reward": reward} | SHARED | options))


def adjoint(policy: Any, **changed: Any) -> AdjointMatching:
    """Return Adjoint Matching on all steps; `changed` replaces options."""
    return built(AdjointMatching, policy, OWN | changed)


def gradient(method: Method) -> Tensor:
    """Return the gradient of one update on one prompt, in one vector."""
    tiny_policy.fit(method, 1, prompts=["a circle"])
    return torch.cat([weight.grad.flatten() for weight in method.trained])


def optimum(steps: Affine, g: Tensor) -> Tensor:
    """Return the shifts (T, 3) that are optimal for targets g (T, 3)."""
    return (steps.std**2 / steps.C)[:, None] * g / ALPHA


def tweedie(process: Process, num_steps: int) -> Tensor:
    """Return the Jacobians of x0_hat at x_1 .. x_{T-1}, and the identity at x_T, (T, 3, 3)."""
    found = []
    for t in process.times(num_steps)[1:-1]:
        a, s = gaussian.scales(process, t)
        found.append(a * SIGMA @ torch.linalg.inv(a**2 * SIGMA + s**2 * torch.eye(3)))
    return torch.stack([*found, torch.eye(3)])


@every_process
@pytest.mark.parametrize("eta", [1.0, 0.5])
def test_one_regression_reaches_the_optimum_whose_samples_are_the_tilt_of_what_the_chain_forgets(
    process: Process, eta: float
) -> None:
    policy = gaussian.world(6, process=process)
    base = affine(policy.base, policy, eta)
    method, drawn = adjoint(policy, steps=6, eta=eta, model_eta=0.3), base.std > 0
    slope = gradient(method).view(6, 3)
    torch.testing.assert_close(slope, -(base.C * drawn)[:, None] * (base.J.mT @ B), rtol=1e-3, atol=1e-5)
    curvature = torch.where(drawn, ALPHA * base.C**2 / base.std**2, 1)
    policy.shift.data = -slope / curvature[:, None]
    torch.testing.assert_close(policy.shift.data, optimum(base, base.J.mT @ B), rtol=1e-3, atol=1e-5)
    trainer = tiny_policy.fit(method, 1)
    assert policy.shift.grad.norm() < 1e-3 * slope.norm()
    (mean, covariance), (base_mean, base_covariance) = affine(policy.tuned, policy, eta).law, base.law
    S = base_covariance - base.remembered
    torch.testing.assert_close(mean - base_mean, S @ B / ALPHA, rtol=2e-3, atol=1e-4)
    torch.testing.assert_close(covariance, base_covariance)
    nats = (B @ S @ B / (2 * ALPHA**2)).item()
    assert trainer.callback_metrics["train/kl_nats"].item() == pytest.approx(nats, rel=2e-3)


@pytest.mark.parametrize("num_steps", [6, 20, 50])
def test_on_a_diffusion_the_optimum_is_the_tilt_at_every_number_of_steps(num_steps: int) -> None:
    policy = gaussian.world(num_steps)
    base = affine(policy.base, policy)
    assert error(optimum(base, base.J.mT @ B), gaussian.optimum(policy)) < 5e-3


def missed(process: Process, num_steps: int, eta: float, sampled_with: float) -> float:
    """Return by how much samples, drawn with another eta, of the optimum on the chain of `eta` miss the tilt."""
    policy = gaussian.world(num_steps, process=process)
    base = affine(policy.base, policy, eta)
    policy.shift.data = torch.where(base.std[:, None] > 0, optimum(base, base.J.mT @ B), 0)
    mean, base_mean = (affine(view, policy, sampled_with).law[0] for view in (policy.tuned, policy.base))
    return error(mean - base_mean, gaussian.TILT)


MEMORYLESS = [(tiny_policy.diffusion(), 1.0), (Flow(), 2**0.5), (Flow(sampler="posterior"), 1.0)]


@pytest.mark.parametrize(("process", "eta"), MEMORYLESS, ids=["ddim", "flow_sde", "posterior"])
def test_after_a_memoryless_chain_the_ode_samples_the_tilt_as_the_steps_grow(process: Process, eta: float) -> None:
    few, many = (missed(process, num_steps, eta, 0.0) for num_steps in (40, 160))
    assert many < 0.55 * few and many < 0.1


def test_after_flow_sde_at_eta_1_its_own_samples_are_the_tilt_but_those_of_the_ode_are_not() -> None:
    assert missed(Flow(), 160, 1.0, 1.0) < 0.01
    few, many = (missed(Flow(), num_steps, 1.0, 0.0) for num_steps in (40, 160))
    assert 0.2 < few < many  # more steps do not help: the chain forgets, but not by the schedule of the theorem


@pytest.mark.parametrize(("num_steps", "lost"), [(10, 0.33), (50, 0.08)])
def test_the_adjoint_at_the_state_itself_loses_part_of_the_tilt(num_steps: int, lost: float) -> None:
    policy = gaussian.world(num_steps)
    base = affine(policy.base, policy)
    found = gradient(adjoint(policy, steps=num_steps, index="state")).view(num_steps, 3)
    at_state = (base.J @ base.M).mT @ B
    torch.testing.assert_close(found, -base.C[:, None] * at_state, rtol=1e-3, atol=1e-5)
    moved = [torch.einsum("t,tij,tj->i", base.std**2, base.J, g) @ B for g in (at_state, base.J.mT @ B)]
    assert 1 - (moved[0] / moved[1]).item() == pytest.approx(lost, abs=0.06)


@every_process
@pytest.mark.parametrize("scale", ["none", "squared"])
@pytest.mark.parametrize("view", ["base", "tuned"])
def test_a_look_ahead_has_the_jacobian_of_tweedie_in_place_of_the_chains(
    process: Process, scale: str, view: str
) -> None:
    policy = gaussian.world(6, process=process)
    base = affine(policy.base, policy)
    own = {"target": "look_ahead", "look_ahead_scale": scale, "look_ahead_view": view}
    found = gradient(adjoint(policy, steps=6, **own)).view(6, 3)
    g = tweedie(process, 6).mT @ B
    if scale == "squared":
        g = torch.cat([gaussian.scales(process, t)[0] ** 2 for t in process.times(6)[1:]]) * g
    torch.testing.assert_close(found, -(base.C * (base.std > 0))[:, None] * g, rtol=1e-3, atol=1e-5)


def test_a_look_ahead_without_a_scale_has_the_tilt_as_its_optimum_where_tweedie_is_the_chains() -> None:
    policy = gaussian.world(20)
    base = affine(policy.base, policy)
    assert error(optimum(base, tweedie(policy.process, 20).mT @ B), gaussian.optimum(policy)) < 1e-3
    flow = gaussian.world(20, process=PROCESSES["posterior"])
    steps = affine(flow.base, flow)
    assert error(tweedie(flow.process, 20), steps.J) < 1e-4


@every_process
def test_clean_takes_the_gradient_at_the_end_for_every_step(process: Process) -> None:
    policy = gaussian.world(6, process=process)
    base = affine(policy.base, policy)
    found = gradient(adjoint(policy, steps=6, target="clean")).view(6, 3)
    torch.testing.assert_close(found, -(base.C * (base.std > 0))[:, None] * B.expand(6, 3), rtol=1e-3, atol=1e-5)


@both_processes
@pytest.mark.parametrize("guidance", [1.0, 3.0])
def test_where_tuned_is_the_base_the_gradient_is_drafts_through_every_step(
    make: Callable[..., Policy], guidance: float
) -> None:
    policy = make(trained=False)
    found = gradient(adjoint(policy, guidance=guidance, guided_adjoint=True))
    expected = gradient(built(Draft, policy, {"K": 4, "guidance": guidance}))
    assert expected.norm() > 1e-4
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-7)


def test_in_the_gaussian_world_the_gradient_is_draft_plus_with_every_step() -> None:
    policy = gaussian.world(6)
    tiny_policy.disturb(policy)
    own = {"K": 6, "kl_coef": ALPHA * DIMS, "kl_min_std": 0.0, "steps": 6}
    found, expected = gradient(adjoint(policy, steps=6)), gradient(built(DraftPlus, policy, own))
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)


@both_processes
@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("steps", [1, 4])
def test_on_the_last_step_alone_it_is_draft_plus_with_one_step(
    make: Callable[..., Policy], target: str, steps: int
) -> None:
    policy, last = make(), {"early": 0, "late": 1, "late_share": 1 / steps}
    found = gradient(adjoint(policy, steps=steps, kl_coef=0.5, target=target, **last))
    expected = gradient(built(DraftPlus, policy, {"K": 1, "kl_coef": 0.5, "kl_min_std": 0.0, "steps": steps}))
    assert expected.norm() > 1e-4
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-7)


class Constant(tiny_policy.Brightness):
    def forward(self, images: Tensor, prompts: list[str]) -> Tensor:
        return 0 * super().forward(images, prompts) + 1


@both_processes
@pytest.mark.parametrize("target", TARGETS)
def test_a_constant_reward_leaves_the_base_bit_for_bit(make: Callable[..., Policy], target: str) -> None:
    policy = make(trained=False)
    method = adjoint(policy, target=target, reward=Constant(), guidance=3.0, guided_adjoint=True, lr=0.1)
    tiny_policy.fit(method, 3)
    x, cond = tiny_policy.normal(2, *tiny_policy.LATENT), policy.encode(["a circle", "a ring"])
    t = method.times[1]
    assert policy.tuned(x, t, cond).equal(policy.base(x, t, cond))


@both_processes
def test_without_guidance_the_three_ways_are_one_bit_for_bit(make: Callable[..., Policy]) -> None:
    policy = make()
    plain = gradient(adjoint(policy))
    for changed in ({"guided_adjoint": True}, {"guidance": 3.0, "guidance_scale": 1.0}, {"guidance_scale": 1.0}):
        assert gradient(adjoint(policy, **changed)).equal(plain)
    guided = [gradient(adjoint(policy, guidance=3.0, guided_adjoint=full)) for full in (False, True)]
    assert not guided[0].equal(plain) and not guided[1].equal(guided[0])


@both_processes
def test_the_models_own_steps_and_noise_are_those_of_training_unless_it_has_its_own(make: Callable) -> None:
    policy = make()
    plain = gradient(adjoint(policy, eta=0.7, steps=3))
    assert gradient(adjoint(policy, eta=None, model_eta=0.7, steps=5, num_steps=3)).equal(plain)


@both_processes
def test_checkpointed_blocks_give_the_same_gradient(make: Callable[..., Policy]) -> None:
    plain, checkpointed = make(), make()
    checkpointed.checkpoint_blocks()
    for target in TARGETS:
        own = {"target": target, "guidance": 3.0, "guided_adjoint": True, "look_ahead_view": "tuned"}
        found = [gradient(adjoint(policy, **own)) for policy in (plain, checkpointed)]
        torch.testing.assert_close(*found, rtol=1e-5, atol=1e-8)


LAST = {"early": 0, "late": 1, "late_share": 0.25}
COSTS = [  # (options, guidance, forward and backward passes per sample beyond the rollout's)
    ({}, 1.0, 4 + 4, 3 + 4),  # nothing is carried back past the first trained step
    ({}, 3.0, 4 + 4, 3 + 4),
    ({"guided_adjoint": True}, 3.0, 2 * (4 + 4), 2 * (3 + 4)),
    ({"index": "state"}, 1.0, 4 + 4, 4 + 4),
    (LAST, 1.0, 1 + 1, 0 + 1),
    ({"target": "clean"}, 1.0, 4 + 4, 4),
    ({"target": "look_ahead"}, 1.0, 4 + 3 + 4, 3 + 4),  # the state at the end needs no prediction
    (LAST | {"target": "look_ahead"}, 1.0, 1 + 1, 1),
]


@both_processes
@pytest.mark.parametrize(("own", "guidance", "forward", "backward"), COSTS)
def test_an_update_costs_the_passes_of_sampling_of_targets_and_of_the_regression(
    make: Callable[..., Policy], own: dict[str, Any], guidance: float, forward: int, backward: int
) -> None:
    policy = make()
    tiny_policy.fit(adjoint(policy, guidance=guidance, **own), 2)
    sampled = 4 * (2 if guidance != 1 else 1)
    assert [policy.passes, policy.backward_passes] == [2 * 4 * (sampled + forward), 2 * 4 * backward]


@pytest.mark.parametrize("scale", ["null", "1"])
def test_a_dry_run_foresees_the_passes_of_sampling(scale: str, tmp_path: Path) -> None:
    steps = ("method.early=null", "method.late=null", f"method.guidance_scale={scale}", "method.num_steps=2")
    cfg = minimal(tmp_path, "method=adjoint", "logger=csv", "model.sampling.guidance_scale=3", *steps)
    experiment = Experiment(cfg)
    tiny_policy.fit(experiment.method, cfg.iterations)
    foreseen = int(re.findall(r"sample for that: ([\d,]+) network passes", plan(cfg))[0].replace(",", ""))
    samples = cfg.iterations * cfg.batch_size
    assert foreseen == samples * 2 * (1 if scale == "1" else 2)
    assert experiment.policy.passes == foreseen + samples * (2 + 2)


def lone(policy: Policy, **changed: Any) -> AdjointMatching:
    """Return a method whose parts work without a trainer."""
    method = adjoint(policy, **changed)
    method.share = Share(rank=0, world=1, micro_batch_size=None)
    return method


@both_processes
@pytest.mark.parametrize("view", ["base", "tuned"])
def test_a_look_ahead_is_differentiated_through_its_view(make: Callable[..., Policy], view: str) -> None:
    policy = make()
    method = lone(policy, target="look_ahead", look_ahead_view=view, look_ahead_scale="squared")
    path = method.path(Batch(0, tiny_policy.PROMPTS))
    for target in method.predictions(path, {0: 1.0, 1: 1.0}):
        t = method.times[target.i + 1]
        x = path.trajectory.latents[:, target.i + 1].clone().requires_grad_()
        x0 = policy.process.clean({"base": policy.base, "tuned": policy.tuned}[view](x, t, path.cond), x, t)
        (expected,) = torch.autograd.grad(policy.decode(x0).mean((1, 2, 3)).sum(), x)
        signal = policy.process.perturb(torch.ones(1), torch.zeros(1), t)
        torch.testing.assert_close(target.g, signal**2 * expected, rtol=1e-5, atol=1e-9)


@both_processes
@pytest.mark.parametrize("eta", [1.0, 0.5])
def test_the_reward_may_be_asked_without_the_noise_of_the_last_step(make: Callable[..., Policy], eta: float) -> None:
    policy = make()
    mean, sample = (lone(policy, reward_at=where, eta=eta) for where in ("mean", "sample"))
    path = mean.path(Batch(0, tiny_policy.PROMPTS))
    rollout = mean.sample(Batch(0, tiny_policy.PROMPTS))
    rollout = dataclasses.replace(rollout, trajectory=path.trajectory)
    last = replayed(policy.tuned, policy.process, path.cond, path.trajectory, 3, eta)
    torch.testing.assert_close(mean.end(rollout), last.mean, rtol=1e-4, atol=1e-6)
    assert sample.end(rollout).equal(path.trajectory.clean) and not sample.end(rollout).equal(mean.end(rollout))


def test_adjoints_of_a_half_precision_network_are_float32() -> None:
    parts = tiny_policy.parts()
    half = dataclasses.replace(parts, network=parts.network.bfloat16())
    policy = Policy(half, Adapter(2, 2, tiny_policy.TARGETS))
    method = lone(policy)
    path = method.path(Batch(0, tiny_policy.PROMPTS))
    targets = list(method.adjoints(path, method.steps(0)))
    assert len(targets) == 4
    assert all(target.g.dtype == target.base.mean.dtype == torch.float32 for target in targets)


@pytest.mark.parametrize("bound", [1e9, 0.1])
def test_a_bound_on_targets_shortens_them_and_turns_none_of_them(bound: float) -> None:
    policy = gaussian.world(6)
    base = affine(policy.base, policy)
    free, bounded = (gradient(adjoint(policy, steps=6, max_target=most)).view(6, 3) for most in (None, bound))
    lengths = base.std * (base.J.mT @ B).norm(dim=1)
    assert (lengths > 0.1).any() and (lengths < 0.1).any()
    torch.testing.assert_close(bounded, free * (bound / lengths).clamp(max=1)[:, None], rtol=1e-3, atol=1e-6)
    assert bounded.equal(free) == (bound == 1e9)


def test_no_kl_leaves_the_gradient_of_the_reward() -> None:
    policy = gaussian.world(6)
    tiny_policy.disturb(policy)
    base = affine(policy.base, policy)
    found = gradient(adjoint(policy, steps=6, kl_coef=0.0)).view(6, 3)
    torch.testing.assert_close(found, -base.C[:, None] * (base.J.mT @ B), rtol=1e-3, atol=1e-5)


def test_steps_are_drawn_from_both_parts_and_stand_for_all_of_them() -> None:
    draw = StepDraw(stochastic=list(range(19)), border=12, early=2, late=3, seed=0)
    drawn = [draw(iteration) for iteration in range(60)]
    assert {i for steps in drawn for i in steps} == set(range(19)) and draw(7) == draw(7)
    for steps in drawn:
        assert list(steps) == sorted(steps)
        assert [sum(i < 12 for i in steps), sum(i >= 12 for i in steps)] == [2, 3]
        assert sum(steps.values()) == pytest.approx(19)
    assert StepDraw([0, 1, 2], border=2, early=9, late=None, seed=0)(0) == {0: 1.0, 1: 1.0, 2: 1.0}
    assert list(StepDraw([0, 1, 2], border=2, early=0, late=4, seed=0)(0)) == [2]


def test_the_logged_kl_of_drawn_steps_is_that_of_the_path_on_average() -> None:
    policy = gaussian.world(6)
    base = affine(policy.base, policy)
    policy.shift.data = optimum(base, base.J.mT @ B)
    logged: list[float] = []

    def look(method: Method, _: Batch) -> None:
        logged.append(method.trainer.callback_metrics["train/kl_nats"].item())

    tiny_policy.fit(adjoint(policy, steps=6, early=1, late=1, late_share=0.5), 60, tiny_policy.Probe(look))
    S = base.law[1] - base.remembered
    assert len(set(logged)) > 3
    assert sum(logged) / 60 == pytest.approx((B @ S @ B / (2 * ALPHA**2)).item(), rel=0.15)


def test_prompts_are_dropped_alike_in_any_micro_batch_and_for_the_regression_alone() -> None:
    prompts = [f"p{k}" for k in range(200)]
    method, batch = lone(tiny_policy.policy(), guidance=3.0, prompt_dropout=0.2), Batch(3, prompts)
    whole = method.after_dropout(batch)
    parts = [method.after_dropout(dataclasses.replace(batch, rows=rows)) for rows in (range(80), range(80, 200))]
    assert parts[0] + parts[1] == whole and 20 < whole.count("") < 60
    assert all(kept in ("", prompt) for kept, prompt in zip(whole, prompts, strict=True))
    assert method.prompts(batch) == prompts
    assert "" not in lone(tiny_policy.policy(), prompt_dropout=0.2).after_dropout(batch)  # no branch reads them


@both_processes
def test_a_dropped_prompt_is_empty_for_adjoint_and_regression(make: Callable[..., Policy]) -> None:
    policy = make()
    method = lone(policy, guidance=3.0, prompt_dropout=0.999999)
    path = method.path(Batch(0, tiny_policy.PROMPTS))
    assert path.prompts == tiny_policy.PROMPTS and path.cond.embeds.equal(policy.encode([""] * 3).embeds)
    kept = lone(policy, guidance=3.0).path(Batch(0, tiny_policy.PROMPTS))
    assert kept.trajectory.latents.equal(path.trajectory.latents) and kept.gradient.equal(path.gradient)


@pytest.mark.parametrize("name", POLICIES)
@pytest.mark.parametrize("target", TARGETS)
def test_a_real_policy_learns(name: str, target: str) -> None:
    policy = POLICIES[name](trained=False)
    before = tiny_policy.brightness(policy)
    own = {"kl_coef": 1e-4, "lr": 0.02, "guidance": 3.0, "early": 1, "late": 1}
    tiny_policy.fit(adjoint(policy, target=target, steps=3, **own), 8)
    assert tiny_policy.brightness(policy) > before + 0.002


def test_targets_have_no_gradient_and_come_from_the_last_step_on() -> None:
    method = lone(tiny_policy.policy())
    path = method.path(Batch(0, tiny_policy.PROMPTS))
    for name in TARGETS:
        found: list[Target] = list(method.all_targets[name](path, {1: 2.0, 3: 2.0}))
        assert [target.i for target in found] == [3, 1]
        assert not any(x.requires_grad for target in found for x in (target.g, target.base.mean, target.base.x0))


class Count(tiny_policy.Brightness):
    differentiable = False


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"reward": Count()}, r"AdjointMatching climbs the reward's gradient, and Count has none;.*"),
        ({"target": "state"}, r"method\.target=state is not one of adjoint, look_ahead, clean"),
        ({"index": "last"}, r"method\.index=last is not one of next, state"),
        ({"reward_at": "end"}, r"method\.reward_at=end is not one of mean, sample"),
        ({"look_ahead": "n_step"}, r"method\.look_ahead=n_step is not one of consistency, tweedie"),
        ({"look_ahead_view": "old"}, r"method\.look_ahead_view=old is not one of base, tuned"),
        ({"look_ahead_scale": "a"}, r"method\.look_ahead_scale=a is not one of none, squared"),
        ({"early": 0, "late": 0}, r"method\.early=0 and method\.late=0 leave no step to learn from"),
        ({"eta": None, "model_eta": 0.0}, r"the 4 sampling steps at eta=0\.0 draw no noise, .* take method\.eta=1 .*"),
    ],
)
def test_bad_options_are_refused_in_one_line(changed: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"^{message}$"):
        adjoint(tiny_policy.policy(), **changed)
