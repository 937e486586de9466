"""The replay buffer drops the oldest, draws by its strategy, and is the same at any world size and after a restart."""

import io
from functools import partial
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor

from rdt.buffer import ReplayBuffer, State, Stock, Strategy, on_policy, prioritized, uniform
from worlds import children

NUM_STEPS, BATCH, CAPACITY, LATENT = 5, 4, 12, (2, 3)
PRIORITIZED = partial(prioritized, gamma=0.8, omega=1.5)
STRATEGIES = [uniform, on_policy, PRIORITIZED]


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def batch(n: int) -> tuple[Tensor, Tensor, list[str]]:
    """Return the n-th rollout: latents that encode their trajectory and step, rewards, and prompts."""
    ids = torch.arange(n * BATCH, (n + 1) * BATCH)
    latents = (ids[:, None] * 100 + torch.arange(NUM_STEPS + 1)).float()
    return (
        latents[:, :, None, None].expand(-1, -1, *LATENT),
        torch.sin(ids + 1.0) + 0.2,
        [f"p{k}" for k in ids.tolist()],
    )


def filled(adds: int, rank: int = 0, world: int = 1, corrected: bool = False) -> ReplayBuffer:
    buffer = ReplayBuffer(capacity=CAPACITY, num_steps=NUM_STEPS, rank=rank, world=world, corrected=corrected)
    for n in range(adds):
        latents, rewards, prompts = batch(n)
        buffer.add(latents.chunk(world)[rank], rewards, prompts)
    return buffer


def same(first: State, second: State) -> bool:
    tensors = ((first.x, second.x), (first.i, second.i), (first.weights, second.weights))
    return first.prompts == second.prompts and all(a.equal(b) for a, b in tensors)


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("adds", [1, 3, 5])
def test_a_state_is_the_latent_of_its_prompts_trajectory_at_its_step(strategy: Strategy, adds: int) -> None:
    state = filled(adds).sample(50, strategy, seeded())
    ids = torch.tensor([int(prompt[1:]) for prompt in state.prompts])
    assert state.x.shape == (50, *LATENT)
    assert (state.x == (ids * 100 + state.i).view(-1, 1, 1)).all()
    assert state.i.max() < NUM_STEPS
    assert state.weights.eq(1).all()


def test_the_oldest_trajectories_are_dropped_first() -> None:
    buffer = ReplayBuffer(capacity=CAPACITY, num_steps=NUM_STEPS)
    for n in range(8):
        buffer.add(*batch(n))
        state = buffer.sample(400, uniform, seeded(n))
        oldest = max(0, (n + 1) * BATCH - CAPACITY)
        assert {int(p[1:]) for p in state.prompts} == set(range(oldest, (n + 1) * BATCH))


@pytest.mark.parametrize("adds", [1, 2, 3, 4, 7])
def test_on_policy_draws_from_the_latest_rollout_alone(adds: int) -> None:
    state = filled(adds).sample(200, on_policy, seeded())
    assert {int(p[1:]) for p in state.prompts} == set(range((adds - 1) * BATCH, adds * BATCH))
    assert set(state.i.tolist()) == set(range(NUM_STEPS))


def expected_probabilities(gamma: float, omega: float) -> Tensor:
    """Return the prioritized probabilities (12, T) of the first three rollouts, written out."""
    rewards = torch.cat([batch(n)[1] for n in range(3)]).double()
    priority = (rewards - rewards.min().clamp(max=0)).clamp(min=0) ** omega
    p = torch.stack([priority * gamma ** (NUM_STEPS - 1 - i) for i in range(NUM_STEPS)], 1)
    return p / p.sum()


@pytest.mark.parametrize(("gamma", "omega"), [(0.8, 1.5), (1.0, 1.0), (0.5, 0.0)])
def test_prioritized_draws_follow_their_probabilities(gamma: float, omega: float) -> None:
    count = 40_000
    state = filled(3).sample(count, partial(prioritized, gamma=gamma, omega=omega), seeded())
    cells = torch.tensor([int(p[1:]) for p in state.prompts]) * NUM_STEPS + state.i
    counts, p = (
        torch.bincount(cells, minlength=CAPACITY * NUM_STEPS).double(),
        expected_probabilities(gamma, omega).flatten(),
    )
    assert counts[p == 0].sum() == 0
    counts, p = counts[p > 0], p[p > 0]
    chi_square, freedom = ((counts - count * p) ** 2 / (count * p)).sum(), len(p) - 1
    assert abs(chi_square - freedom) < 4 * (2 * freedom) ** 0.5


def test_correction_makes_averages_those_of_uniform_draws() -> None:
    buffer = filled(3, corrected=True)
    steps = buffer.sample(40_000, partial(prioritized, gamma=0.8, omega=0.0), seeded())
    assert abs((steps.weights * steps.i).mean() - (NUM_STEPS - 1) / 2) < 0.04
    assert abs(steps.weights.mean() - 1) < 0.02
    assert buffer.sample(20, uniform, seeded()).weights.allclose(torch.ones(20))


def stock(*rewards: float, floor: float = 0.0) -> Stock:
    values = torch.tensor(rewards, dtype=torch.double)
    return Stock(values, floor, torch.ones(len(values), dtype=torch.bool), NUM_STEPS)


def test_rewards_without_a_positive_priority_get_the_same_one() -> None:
    p = prioritized(stock(0.0, 0.0, 0.0), gamma=0.5, omega=1.0)
    assert p.equal(prioritized(stock(2.0, 2.0, 2.0), gamma=0.5, omega=0.0))


def test_positive_rewards_are_not_shifted_and_negative_ones_are_by_the_smallest_ever() -> None:
    raw = prioritized(stock(1.0, 3.0), gamma=1.0, omega=1.0)
    assert (raw[1] / raw[0] == 3).all()
    shifted = prioritized(stock(-1.0, 1.0, floor=-3.0), gamma=1.0, omega=1.0)
    assert (shifted[1] / shifted[0] == 2).all()


def test_the_smallest_reward_is_remembered_after_its_trajectory_is_dropped() -> None:
    buffer, floors = ReplayBuffer(capacity=BATCH, num_steps=NUM_STEPS), []

    def watching(stock: Stock) -> Tensor:
        floors.append(stock.floor)
        return uniform(stock)

    for rewards in (torch.ones(BATCH), -3 * torch.ones(BATCH), torch.ones(BATCH)):
        latents, _, prompts = batch(0)
        buffer.add(latents, rewards, prompts)
        buffer.sample(1, watching, seeded())
    assert floors == [0, -3, -3]


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("world", [2, 4])
def test_draws_are_the_same_at_any_world_size(world: int, strategy: Strategy) -> None:
    whole = filled(5).sample(64, strategy, seeded(1))
    ranks = [filled(5, rank, world) for rank in range(world)]
    draws = [rank.draw(64, strategy, seeded(1)) for rank in ranks]
    parts = [rank.own(slots, i) for rank, (slots, i, _) in zip(ranks, draws, strict=True)]
    assert all(i.equal(whole.i) and weights.equal(whole.weights) for _, i, weights in draws)
    assert sum(parts).equal(whole.x)
    assert sum(part.flatten(1).any(1).int() for part in parts).eq(1).all()


@pytest.mark.parametrize("adds", [0, 2, 5])
def test_draws_after_a_restart_continue_those_before_it(adds: int) -> None:
    buffer, file = filled(adds), io.BytesIO()
    torch.save(buffer.state_dict(), file)
    file.seek(0)
    restored = filled(0)
    restored.load_state_dict(torch.load(file, weights_only=True))
    for each in (buffer, restored):
        each.add(*batch(adds))
    for strategy in STRATEGIES:
        assert same(buffer.sample(64, strategy, seeded()), restored.sample(64, strategy, seeded()))


def test_a_saved_buffer_is_a_copy_and_loads_at_another_world_size() -> None:
    buffer = filled(4)
    state = buffer.state_dict()
    buffer.add(*batch(4))
    ranks = [filled(0, rank, 2) for rank in range(2)]
    for rank in ranks:
        rank.load_state_dict(state)
    slots, i, _ = ranks[0].draw(64, PRIORITIZED, seeded())
    assert (ranks[0].own(slots, i) + ranks[1].own(slots, i)).equal(filled(4).sample(64, PRIORITIZED, seeded()).x)


@pytest.mark.parametrize("changed", [dict(capacity=8), dict(num_steps=4), dict(world=3)])
def test_a_state_that_does_not_fit_is_refused(changed: dict[str, int]) -> None:
    other = ReplayBuffer(**(dict(capacity=CAPACITY, num_steps=NUM_STEPS) | changed))
    with pytest.raises(ValueError, match="do not fit"):
        other.load_state_dict(filled(2).state_dict())


def test_misuse_is_refused_with_the_value_seen() -> None:
    latents, rewards, prompts = batch(0)
    with pytest.raises(ValueError, match="empty buffer"):
        filled(0).sample(1, uniform, seeded())
    with pytest.raises(ValueError, match="capacity=6 must be a multiple of the batch=4"):
        ReplayBuffer(capacity=6, num_steps=NUM_STEPS).add(latents, rewards, prompts)
    with pytest.raises(ValueError, match="batch=3, the same"):
        filled(1).add(latents[:3], rewards[:3], prompts[:3])
    with pytest.raises(ValueError, match="2 rewards, 4 latents"):
        filled(0).add(latents, rewards[:2], prompts)
    with pytest.raises(ValueError, match="hold 5 times"):
        filled(0).add(latents[:, :-1], rewards, prompts)
    with pytest.raises(ValueError, match="1 of 4 rewards are not finite"):
        filled(0).add(latents, torch.tensor([0.0, float("nan"), 1.0, 2.0]), prompts)


def rank_process(rank: int, folder: str) -> None:
    """Save what one of two ranks over gloo samples, and its state."""
    torch.set_num_threads(1)  # a forked child must not enter its parent's thread pool
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    buffer = filled(5, rank, 2)
    torch.save({"x": buffer.sample(16, PRIORITIZED, seeded()).x, "state": buffer.state_dict()}, f"{folder}/{rank}.pt")
    dist.destroy_process_group()


def test_two_processes_sample_and_save_what_one_does(tmp_path: Path) -> None:
    ranks = mp.start_processes(rank_process, (str(tmp_path),), nprocs=2, join=False, daemon=True, start_method="fork")
    children.until(lambda: ranks.join(1))
    first, second = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2))
    alone = filled(5)
    assert first["x"].equal(second["x"])
    assert first["x"].equal(alone.sample(16, PRIORITIZED, seeded()).x)
    assert first["state"]["latents"].equal(alone.state_dict()["latents"])
