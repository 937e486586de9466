"""Sampler steps agree with diffusers and have the densities and marginals that they state."""

import math
from itertools import pairwise

import pytest
import torch
from diffusers.schedulers import DDIMScheduler, LCMScheduler
from torch import Tensor

from rdt.process import Diffusion, Flow, Process, Transition, ddim, posterior

PREDICTIONS = ("epsilon", "v_prediction", "sample")
STABLE_DIFFUSION = dict(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False)


def reference(prediction: str) -> DDIMScheduler:
    return DDIMScheduler(**STABLE_DIFFUSION, set_alpha_to_one=False, steps_offset=1, prediction_type=prediction)


def diffusion(prediction: str = "epsilon") -> Diffusion:
    return Diffusion(alphas_cumprod=reference(prediction).alphas_cumprod, prediction=prediction)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


PROCESSES = [diffusion(), Flow(sampler="sde"), Flow(sampler="cps", shift=3.0), Flow(sampler="posterior")]


@pytest.mark.parametrize("num_steps", [7, 50])
@pytest.mark.parametrize("eta", [0.0, 1.0])
@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_ddim_steps_equal_diffusers(prediction: str, eta: float, num_steps: int) -> None:
    theirs, ours = reference(prediction), diffusion(prediction)
    theirs.set_timesteps(num_steps)
    times = ours.times(num_steps)
    assert times.tolist() == [*theirs.timesteps.tolist(), -1]
    for i in range(num_steps):
        x, output, noise = (normal(2, 3, 4, 4, seed=3 * i + k) for k in range(3))
        step = theirs.step(output, int(times[i]), x, eta=eta, variance_noise=noise)
        transition = ours.transition(output, x, times[i], times[i + 1], eta)
        torch.testing.assert_close(transition.sample(noise), step.prev_sample, atol=2e-6, rtol=2e-5)
        torch.testing.assert_close(transition.x0, step.pred_original_sample, atol=2e-6, rtol=2e-5)


@pytest.mark.parametrize("num_steps", [1, 4, 50, 1000])
@pytest.mark.parametrize("settings", [{"prediction_type": "v_prediction", "rescale_betas_zero_snr": True}, {}])
def test_trailing_steps_equal_diffusers_from_the_last_training_step_on(settings: dict, num_steps: int) -> None:
    theirs = DDIMScheduler(**STABLE_DIFFUSION, timestep_spacing="trailing", **settings)
    prediction = theirs.config.prediction_type
    ours = Diffusion(
        alphas_cumprod=theirs.alphas_cumprod, prediction=prediction, set_alpha_to_one=True, spacing="trailing"
    )
    theirs.set_timesteps(num_steps)
    times = ours.times(num_steps)
    assert times.tolist() == [*theirs.timesteps.tolist(), -1] and times[0] == 999
    for i in {0, num_steps // 2, num_steps - 1}:
        x, output, noise = (normal(2, 3, 4, 4, seed=3 * i + k) for k in range(3))
        for eta in (0.0, 0.7):  # at 1 rounding makes diffusers' variance negative
            step = theirs.step(output, int(times[i]), x, eta=eta, variance_noise=noise)
            transition = ours.transition(output, x, times[i], times[i + 1], eta)
            torch.testing.assert_close(transition.sample(noise), step.prev_sample, atol=2e-6, rtol=2e-5)


@pytest.mark.parametrize("num_steps", [3, 15, 28, 300])
def test_trailing_times_are_those_of_diffusers_where_the_stride_is_not_whole(num_steps: int) -> None:
    theirs = DDIMScheduler(**STABLE_DIFFUSION, timestep_spacing="trailing")
    theirs.set_timesteps(num_steps)
    ours = Diffusion(alphas_cumprod=theirs.alphas_cumprod, prediction="epsilon", spacing="trailing")
    assert ours.times(num_steps).tolist() == [*theirs.timesteps.tolist(), -1]


def test_times_that_there_are_not_and_signals_of_zero_are_refused() -> None:
    alphas = DDIMScheduler(**STABLE_DIFFUSION, rescale_betas_zero_snr=True).alphas_cumprod
    trailing = Diffusion(alphas_cumprod=alphas, prediction="v_prediction", spacing="trailing")
    for num_steps in (0, 1001):
        with pytest.raises(ValueError, match=f"num_steps={num_steps} must "):
            trailing.times(num_steps)
    with pytest.raises(ValueError, match="prediction=epsilon has no clean estimate"):
        Diffusion(alphas_cumprod=alphas, prediction="epsilon", spacing="trailing").times(4)
    leading = Diffusion(alphas_cumprod=alphas, prediction="epsilon")
    assert leading.times(4)[0] == 751
    with pytest.raises(ValueError, match="prediction=epsilon has no clean estimate"):
        leading.times(500)


@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_consistency_equals_diffusers_lcm(prediction: str) -> None:
    lcm = LCMScheduler(**STABLE_DIFFUSION, set_alpha_to_one=False, prediction_type=prediction)
    lcm.set_timesteps(4)
    x, output = normal(2, 4, 4, 4), normal(2, 4, 4, 4, seed=1)
    denoised = lcm.step(output, lcm.timesteps[1], x, return_dict=False)[1]
    torch.testing.assert_close(diffusion(prediction).consistency(output, x, lcm.timesteps[1]), denoised)


def test_consistency_at_the_clean_end_is_the_sample() -> None:
    x, output = normal(2, 4, 4, 4), normal(2, 4, 4, 4, seed=1)
    assert diffusion().consistency(output, x, torch.tensor([-1, 0])).equal(x)


@pytest.mark.parametrize("num_steps", [0, 1000, 1001])
def test_times_that_exceed_the_table_are_refused(num_steps: int) -> None:
    with pytest.raises(ValueError, match=f"num_steps={num_steps}"):
        diffusion().times(num_steps)


def test_unknown_choices_are_refused() -> None:
    with pytest.raises(ValueError, match="prediction=flow"):
        Diffusion(alphas_cumprod=torch.rand(10), prediction="flow")
    with pytest.raises(ValueError, match="spacing=linspace"):
        Diffusion(alphas_cumprod=torch.rand(10), prediction="epsilon", spacing="linspace")
    with pytest.raises(ValueError, match="sampler=ddim"):
        Flow(sampler="ddim")


def test_the_clean_end_keeps_the_first_alpha_or_has_no_noise() -> None:
    alphas, x0, e = torch.linspace(0.9, 0.1, 10), torch.zeros(1, 4), torch.ones(1, 4)
    kept = Diffusion(alphas_cumprod=alphas, prediction="epsilon")
    clean = Diffusion(alphas_cumprod=alphas, prediction="epsilon", set_alpha_to_one=True)
    end = torch.tensor(-1)
    torch.testing.assert_close(kept.perturb(x0, e, end), e * math.sqrt(0.1))
    assert clean.perturb(x0, e, end).equal(x0)


def exact_output(kind: str, process: Process, x0: Tensor, e: Tensor, t: Tensor) -> Tensor:
    """Return what a perfect network predicts for x_t."""
    at = process._at(t, x0)
    return {"epsilon": e, "sample": x0, "v_prediction": at.alpha * e - at.sigma * x0, "velocity": e - x0}[kind]


@pytest.mark.parametrize("kind", [*PREDICTIONS, "velocity"])
def test_splitting_a_perfect_output_inverts_perturb(kind: str) -> None:
    process = Flow() if kind == "velocity" else diffusion(kind)
    times = process.times(5)[:-1]
    x0, e = normal(4, 2, 3, 3), normal(4, 2, 3, 3, seed=1)
    t = times[1:]
    x = process.perturb(x0, e, t)
    output = exact_output(kind, process, x0, e, t)
    assert process.target(x0, e, t).equal(output)
    torch.testing.assert_close(process.clean(output, x, t), x0, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(process._split(output, x, t)[1], e, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("process", PROCESSES)
def test_times_per_sample_equal_a_shared_time(process: Process) -> None:
    x, output, times = normal(4, 2, 3, 3), normal(4, 2, 3, 3, seed=1), process.times(4)
    together = process.transition(output, x, times[:-1], times[1:], 0.7)
    for i in range(4):
        row = slice(i, i + 1)
        alone = process.transition(output[row], x[row], times[i], times[i + 1], 0.7)
        assert together.std.shape == (4, 1, 1, 1)
        assert alone.std.shape == (1, 1, 1, 1)
        for ours, theirs in ((together.mean, alone.mean), (together.std, alone.std), (together.x0, alone.x0)):
            assert ours[row].equal(theirs)


@pytest.mark.parametrize("process", PROCESSES)
def test_half_precision_outputs_step_alike_under_shared_and_own_times(process: Process) -> None:
    x, output, times = normal(2, 4, 4), normal(2, 4, 4, seed=1).bfloat16(), process.times(4)
    shared = process.transition(output, x, times[1], times[2], 0.7)
    own = process.transition(output, x, times[1].expand(2), times[2].expand(2), 0.7)
    assert shared.mean.dtype == torch.float32
    assert shared.mean.equal(own.mean)


@pytest.mark.parametrize("process", PROCESSES)
def test_eta_zero_is_deterministic_and_exact_on_a_straight_path(process: Process) -> None:
    x0, e, times = normal(2, 3, 3), normal(2, 3, 3, seed=1), process.times(5)
    kind = "epsilon" if isinstance(process, Diffusion) else "velocity"
    x = process.perturb(x0, e, times[0])
    for t, t_next in pairwise(times):
        step = process.transition(exact_output(kind, process, x0, e, t), x, t, t_next, 0.0)
        assert step.std.count_nonzero() == 0
        x = step.mean
        torch.testing.assert_close(x, process.perturb(x0, e, t_next), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("shift", [0.37, 1.0, 1.3, 3.0])
def test_flow_times_run_from_one_to_zero_exactly(shift: float) -> None:
    times, plain = Flow(shift=shift).times(10), torch.linspace(1, 0, 11)
    assert times[0] == 1
    assert times[-1] == 0
    assert (times.diff() < 0).all()
    torch.testing.assert_close(times, shift * plain / (1 + (shift - 1) * plain))


@pytest.mark.parametrize("process", [diffusion(), Flow(sampler="cps"), Flow(sampler="posterior")])
@pytest.mark.parametrize("eta", [0.0, 0.3, 1.0])
def test_ddim_cps_and_posterior_preserve_the_noise_coefficient(process: Process, eta: float) -> None:
    """With a perfect network the step's kept and fresh noise together have the variance sigma_{i+1}^2."""
    x0, e, times = torch.zeros(1, 1), torch.ones(1, 1), process.times(8)
    kind = "epsilon" if isinstance(process, Diffusion) else "velocity"
    for t, t_next in pairwise(times):
        x, output = process.perturb(x0, e, t), exact_output(kind, process, x0, e, t)
        step = process.transition(output, x, t, t_next, eta)
        expected = process.perturb(x0, e, t_next) ** 2
        torch.testing.assert_close(step.mean**2 + step.std**2, expected, atol=1e-5, rtol=1e-4)


def test_cps_puts_the_stated_share_of_noise_in_std() -> None:
    process, x = Flow(sampler="cps"), normal(1, 4)
    step = process.transition(x, x, torch.tensor(0.8), torch.tensor(0.6), 0.5)
    torch.testing.assert_close(step.std.squeeze(), torch.tensor(0.6 * math.sin(math.pi / 4)))


@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
def test_the_posterior_step_is_ddims_on_a_diffusion(eta: float) -> None:
    process = diffusion()
    for num_steps in (4, 50):
        times = process.times(num_steps)
        now, after = process._scales(times[:-1]), process._scales(times[1:])
        found, expected = posterior(now, after, eta), ddim(now, after, eta)
        torch.testing.assert_close(found.std, expected.std, atol=1e-6, rtol=1e-3)
        torch.testing.assert_close(found.keep, expected.keep, atol=1e-6, rtol=1e-3)


@pytest.mark.parametrize(("t", "t_next"), [(1.0, 0.7), (0.7, 0.4), (0.2, 0.0)])
def test_the_posterior_step_draws_from_q_of_the_next_state_given_this_one_and_the_clean_one(
    t: float, t_next: float
) -> None:
    """q(x_{i+1} | x_i, x_0) is by Bayes' rule that of a Gaussian prior at x_{i+1} and a Gaussian step back to x_i."""
    x0, x, process = normal(1, 4).double(), normal(1, 4, seed=1).double(), Flow(sampler="posterior")
    a, s, a_next, s_next = 1 - t, t, 1 - t_next, t_next
    back, variance = a / a_next, s**2 - (a / a_next * s_next) ** 2  # x_i = back x_{i+1} + N(0, variance)
    precision = 1 / s_next**2 + back**2 / variance if s_next else math.inf
    mean = a_next * x0 + back / variance / precision * (x - back * a_next * x0)
    step = process.transition((x - x0) / t, x, torch.tensor(t), torch.tensor(t_next), 1.0)
    torch.testing.assert_close(step.mean, mean, atol=1e-6, rtol=1e-5)
    assert step.std.item() == pytest.approx(precision**-0.5, abs=1e-7)


def test_flow_sde_equals_flow_grpos_formula() -> None:
    x, v, t, t_next, eta = normal(2, 4), normal(2, 4, seed=1), torch.tensor([0.9, 0.3]), torch.tensor([0.7, 0.1]), 0.7
    step = Flow(sampler="sde").transition(v, x, t, t_next, eta)
    t, dt = t[:, None], (t - t_next)[:, None]
    sigma = eta * (t / (1 - t)).sqrt()
    drift = v + sigma**2 / (2 * t) * (x + (1 - t) * v)
    torch.testing.assert_close(step.mean, x - drift * dt)
    torch.testing.assert_close(step.std, sigma * dt.sqrt())


def test_flow_sde_is_finite_at_pure_noise() -> None:
    x, t, t_next = normal(2, 4), torch.tensor(1.0), torch.tensor(0.75)
    step = Flow(sampler="sde").transition(x, x, t, t_next, 0.7)
    torch.testing.assert_close(step.std, torch.full((2, 1), 0.7 * math.sqrt(1 / 0.25) * math.sqrt(0.25)))


@pytest.mark.parametrize("sampler", ["sde", "cps", "posterior"])
def test_flow_samplers_keep_the_marginals_of_a_gaussian(sampler: str) -> None:
    """For data N(1.5, 0.5^2) and the exact velocity, x_t keeps the mean and std of (1 - t) x0 + t e."""
    process, mu, sd, count, num_steps = Flow(sampler=sampler), 1.5, 0.5, 40_000, 200
    times, x = process.times(num_steps), normal(count, 1)
    draws = torch.Generator().manual_seed(1)
    eta = 0.7 if sampler == "sde" else 0.3
    for i in range(num_steps):
        t, variance = times[i], ((1 - times[i]) * sd) ** 2 + times[i] ** 2
        centred = x - (1 - t) * mu
        velocity = t / variance * centred - mu - (1 - t) * sd**2 / variance * centred  # E[e - x0 | x_t]
        x = process.transition(velocity, x, t, times[i + 1], eta).sample(torch.randn(x.shape, generator=draws))
        if i in (100, 150, 199):
            after = times[i + 1]
            assert abs(x.mean() - (1 - after) * mu) < 0.02
            assert abs(x.std() - math.hypot((1 - after) * sd, after)) < 0.02


def transitions() -> tuple[Transition, Transition]:
    std = torch.tensor([0.3, 1.7]).view(2, 1, 1)
    mean, x0 = normal(2, 3, 5), normal(2, 3, 5, seed=1)
    return Transition(mean, std, x0), Transition(mean + normal(2, 3, 5, seed=2), std, x0)


def test_log_prob_equals_the_mean_normal_log_density() -> None:
    transition, x = transitions()[0], normal(2, 3, 5, seed=3)
    expected = torch.distributions.Normal(transition.mean, transition.std).log_prob(x).mean((1, 2))
    torch.testing.assert_close(transition.log_prob(x), expected)


def test_kl_equals_the_summed_closed_form() -> None:
    p, q = transitions()
    normals = [torch.distributions.Normal(each.mean, each.std) for each in (p, q)]
    torch.testing.assert_close(p.kl(q), torch.distributions.kl_divergence(*normals).sum((1, 2)))
    assert p.kl(p).count_nonzero() == 0
    floored = p.kl(q, min_std=0.6)
    torch.testing.assert_close(floored, p.kl(q) * torch.tensor([(0.3 / 0.6) ** 2, 1]))


def test_deterministic_steps_have_no_density_and_no_gradient() -> None:
    mean = normal(2, 3).requires_grad_()
    step, other = Transition(mean, torch.zeros(2, 1), mean), Transition(mean.detach() + 1, torch.zeros(2, 1), mean)
    log_prob, kl = step.log_prob(normal(2, 3, seed=1)), step.kl(other)
    (log_prob + kl).sum().backward()
    assert log_prob.tolist() == kl.tolist() == [0, 0]
    assert mean.grad.count_nonzero() == 0
    assert step.sample(normal(2, 3, seed=2)).equal(mean)
