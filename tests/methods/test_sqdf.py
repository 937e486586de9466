"""SQDF against what can be solved by hand: the tilted Gaussian of `worlds.gaussian`, and the limits of each part.

With gamma = 1, Tweedie look-ahead and alpha = kl_coef / dims, the update at x_i maximises
    E[b . x0_hat(x_{i+1})] - alpha KL(tuned || base at x_i),    x_{i+1} ~ N(m_i, std_i^2),
whose single maximum is the best mean of that world. Each update contains only the KL of its step. That still
solves the whole problem, since x0_hat is the soft value there: alpha is kl_coef / dims, per nat of the path.
"""

from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor

from rdt.buffer import State
from rdt.methods.sqdf import SQDF, look_aheads, n_step, tweedie
from rdt.randomness import generator
from rdt.rewards.base import Reward
from rdt.rollout import Sampling, sampled
from rdt.stream import Batch
from worlds import tiny_policy
from worlds.gaussian import ALPHA, DIMS, MU, SIGMA, TILT, B, Linear, error, law, optimum, world

LOOK_AHEADS = look_aheads(n=4)


def sqdf(policy: Any, reward: Reward | None = None, num_steps: int = 6, guidance: float = 1.0, **changed: Any) -> SQDF:
    """Return SQDF with alpha of the Gaussian world; `changed` replaces options."""
    options = {
        "gamma": 1.0, "kl_coef": ALPHA * DIMS, "kl_min_std": 0.0, "look_ahead": "tweedie", "n_step": 4,
        "replay": "uniform", "omega": 1.0, "importance_correction": False, "capacity": 64, "replay_ratio": 1,
        "mask_nonpositive": False, "batch_size": 8, "seed": 0, "lr": 1e-3, "weight_decay": 0.0, "max_grad_norm": 1e9,
        "adam_eps": 1e-8, "micro_batch_size": None,
    }  # fmt: skip
    sampling = Sampling(num_steps, 1.0, guidance)
    return SQDF(policy=policy, reward=reward or Linear(), sampling=sampling, **(options | changed))


def states(num_steps: int, i: Tensor | None = None, shape: tuple[int, ...] = (3, 1, 1)) -> State:
    """Return one state of every step, or of the steps i."""
    i = torch.arange(num_steps) if i is None else i
    return State(tiny_policy.normal(len(i), *shape), i, ["p"] * len(i), torch.ones(len(i)))


def losses(method: SQDF, *states: State) -> list[Tensor]:
    """Return the mean loss at given states, inside a trainer that has made one step of size 0."""
    found: list[Tensor] = []
    method.lr = 0.0

    def look(method: SQDF, _: Batch) -> None:
        found.extend(method.loss(state, range(len(state.x))).losses.mean() for state in states)

    tiny_policy.fit(method, 1, tiny_policy.Probe(look))
    return found


def test_training_reaches_the_tilted_gaussian() -> None:
    policy = world(num_steps=20)
    base, covariance = law(policy.base, policy)
    method = sqdf(policy, num_steps=20, batch_size=160, replay_ratio=40, capacity=160, lr=0.03, replay="on_policy")
    tiny_policy.fit(method, 150)
    mean, learned = law(policy.tuned, policy)
    assert error(policy.shift.detach(), optimum(policy)) < 0.02
    assert error(mean - base, covariance @ B / ALPHA) < 0.05
    assert error(learned, covariance) < 1e-4


def test_the_samples_of_the_optimum_follow_its_law() -> None:
    policy = world(num_steps=20)
    policy.shift.data = optimum(policy)
    mean, covariance = law(policy.tuned, policy)
    noise = policy.noise(0, "law", range(1000))
    x = sampled(policy, policy.tuned, [""] * 1000, noise, Sampling(20, 1.0, 1.0)).clean.flatten(1)
    assert error(x.mean(0), mean) < 0.05 and error(x.T.cov(), covariance) < 0.1


def test_the_optimum_of_many_steps_is_the_tilted_data_distribution() -> None:
    errors = []
    for num_steps in (100, 500):
        policy = world(num_steps)
        policy.shift.data = optimum(policy)
        mean, covariance = law(policy.tuned, policy)
        errors.append((error(mean - MU, TILT), error(covariance, SIGMA)))
    assert all(few > 2.5 * many for few, many in zip(*errors, strict=True))  # O(1 / T)
    assert max(errors[1]) < 0.05 and error(mean, MU + TILT) < 0.05


@pytest.mark.parametrize("gamma", [1.0, 0.9])
def test_the_optimum_is_where_the_loss_is_stationary(gamma: float) -> None:
    policy = world(num_steps=12)
    method = sqdf(policy, num_steps=12, gamma=gamma)
    gradients = []
    for shift in (torch.zeros(12, 3), optimum(policy, gamma)):
        policy.shift.data = shift
        gradients.append(torch.autograd.grad(losses(method, states(12))[0], policy.shift)[0].norm(dim=1))
    assert (gradients[1] < 1e-3 * gradients[0]).all()  # at every step


@pytest.mark.parametrize("look_ahead", LOOK_AHEADS)
def test_look_aheads_agree_if_the_data_are_one_point(look_ahead: str) -> None:
    process = tiny_policy.diffusion(set_alpha_to_one=True)
    method = sqdf(world(6, torch.zeros(3, 3), process), look_ahead=look_ahead)
    t = torch.tensor([991, 601, 301, 51, 3])
    x = process.perturb(MU.view(1, 3, 1, 1).expand(5, -1, -1, -1), tiny_policy.normal(5, 3, 1, 1), t)
    x0 = method.look_ahead(method.policy, method.policy.base, x, t, method.policy.encode(["p"] * 5))
    torch.testing.assert_close(x0.flatten(1), MU.expand(5, -1), atol=2e-3, rtol=0)


def test_one_step_of_the_sampler_to_a_noiseless_end_is_tweedie() -> None:
    policy = world(6, process=tiny_policy.diffusion(set_alpha_to_one=True))
    x, t, cond = tiny_policy.normal(3, 3, 1, 1), torch.tensor([991, 301, 3]), policy.encode(["p"] * 3)
    found, expected = n_step(policy, policy.base, x, t, cond, n=1), tweedie(policy, policy.base, x, t, cond)
    torch.testing.assert_close(found, expected)


def test_at_the_last_step_every_look_ahead_is_the_sample_itself() -> None:
    last = states(6, torch.tensor([5, 5]))
    found = [losses(sqdf(world(6), look_ahead=name), last)[0] for name in LOOK_AHEADS]
    assert all(loss.equal(found[0]) for loss in found)


def test_gamma_discounts_by_the_steps_that_remain() -> None:
    method = {gamma: sqdf(world(6), gamma=gamma, kl_coef=0.0) for gamma in (1.0, 0.5)}
    for i in range(6):
        state = states(6, torch.tensor([i, i]))
        whole, discounted = (losses(method[gamma], state)[0] for gamma in (1.0, 0.5))
        assert discounted.item() == pytest.approx(whole.item() * 0.5 ** (5 - i), rel=1e-5)


@pytest.mark.parametrize("kl_coef", [0.0, 1.0])
def test_the_base_matters_only_through_the_kl(kl_coef: float) -> None:
    found = []
    for error_of_base in (0.0, 0.7):
        policy = world(6)
        policy.base_shift = torch.full((3,), error_of_base)
        found += losses(sqdf(policy, look_ahead="consistency", kl_coef=kl_coef), states(6))
    assert found[0].equal(found[1]) == (kl_coef == 0)


def test_the_logged_kl_is_that_of_the_transitions() -> None:
    policy = world(6)
    tiny_policy.disturb(policy)
    method, expected = sqdf(policy, lr=0.0), []

    def look(method: SQDF, _: Any) -> None:
        state = method.buffer.sample(method.batch_size, method.replay, generator(method.seed, "replay", 0))
        t, t_next = method.times[state.i], method.times[state.i + 1]
        step = [
            policy.process.transition(view(state.x, t, policy.encode(state.prompts)), state.x, t, t_next, 1.0)
            for view in (policy.tuned, policy.base)
        ]
        expected.append(((step[0].mean - step[1].mean) ** 2 / (2 * step[0].std ** 2)).flatten(1).sum(1).mean() * 6)

    trainer = tiny_policy.fit(method, 1, tiny_policy.Probe(look))
    torch.testing.assert_close(trainer.callback_metrics["train/kl_nats"], expected[0].detach())
    assert expected[0] > 0


def test_the_kl_of_the_optimum_is_the_gain_of_the_tilt() -> None:
    """N(mu + Sigma b / alpha, Sigma) is b . Sigma b / (2 alpha^2) nats from N(mu, Sigma), and so is the whole path."""
    policy = world(num_steps=20)
    policy.shift.data = optimum(policy)
    times, x = policy.process.times(20), tiny_policy.normal(1, 3, 1, 1)
    nats = 0.0
    for t, after in pairwise(times):
        views = (view(x, t, policy.encode([""])) for view in (policy.tuned, policy.base))
        ours, theirs = (policy.process.transition(output, x, t, after, 1.0) for output in views)
        nats += ours.kl(theirs).item()
    b, covariance = B, law(policy.base, policy)[1]
    assert nats == pytest.approx((b @ covariance @ b / (2 * ALPHA**2)).item(), rel=0.02)


@pytest.mark.parametrize("replay", ["on_policy", "uniform", "prioritized"])
def test_only_on_policy_replay_is_limited_to_the_latest_rollouts(replay: str) -> None:
    old: list[bool] = []

    def look(method: SQDF, batch: Any) -> None:
        drawn = method.buffer.sample(100, method.replay, generator(0, "look", method.iteration))
        old.append(not set(drawn.prompts) <= set(batch.prompts))

    tiny_policy.fit(sqdf(world(6), replay=replay), 3, tiny_policy.Probe(look), prompts=[f"p{k}" for k in range(10_000)])
    assert old == [False, *[replay != "on_policy"] * 2]


def test_the_replay_ratio_is_the_number_of_gradient_samples_per_rollout() -> None:
    method, rolled_out = sqdf(world(6), batch_size=12, replay_ratio=4, capacity=24), []
    tiny_policy.fit(method, 9, tiny_policy.Probe(lambda method, _: rolled_out.append(method.images)))
    assert rolled_out == [12] * 4 + [24] * 4 + [36] and len(method.buffer) == 24


def test_the_mask_drops_states_whose_q_is_not_positive() -> None:
    state = states(6, torch.full((16,), 5))
    method = sqdf(world(6), kl_coef=0.0)
    one_by_one = [loss.item() for loss in losses(method, *(state[k : k + 1] for k in range(16)))]
    masked = losses(sqdf(world(6), kl_coef=0.0, mask_nonpositive=True), *(state[k : k + 1] for k in range(16)))
    assert min(one_by_one) < 0 < max(one_by_one)
    assert [loss.item() for loss in masked] == [min(loss, 0) for loss in one_by_one]


@pytest.mark.parametrize("look_ahead", LOOK_AHEADS)
def test_every_look_ahead_reaches_every_weight_of_a_real_policy(look_ahead: str) -> None:
    policy = tiny_policy.policy()
    method = sqdf(policy, tiny_policy.Brightness(), look_ahead=look_ahead, guidance=3.0, kl_coef=0.0, n_step=2)
    loss = losses(method, states(6, torch.tensor([1, 3]), tiny_policy.LATENT))[0]
    assert all(gradient.norm() > 0 for gradient in torch.autograd.grad(loss, method.trained))


def test_a_real_policy_learns() -> None:
    policy = tiny_policy.policy(trained=False)
    method = sqdf(policy, tiny_policy.Brightness(), num_steps=3, batch_size=4, kl_coef=0.0, lr=0.02)
    rewards: list[float] = []
    tiny_policy.fit(method, 8, tiny_policy.Probe(lambda *_: rewards.append(tiny_policy.brightness(policy))))
    assert rewards[-1] > rewards[0] + 0.005


class Count(tiny_policy.Brightness):
    differentiable = False


@pytest.mark.parametrize(
    "changed, message",
    [
        ({"reward": Count()}, r"SQDF climbs the reward.s gradient, and Count has none; take .*"),
        ({"capacity": 20}, r"method\.capacity=20 must be a multiple of batch_size=8; take 16"),
        ({"look_ahead": "oracle"}, r"method\.look_ahead=oracle is not one of consistency, tweedie, n_step"),
        ({"replay": "newest"}, r"method\.replay=newest is not one of prioritized, uniform, on_policy"),
    ],
)
def test_bad_options_are_refused_in_one_line(changed: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"^{message}$"):
        sqdf(world(6), **changed)
