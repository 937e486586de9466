"""Selection is checked by brute force, distinctness by its definition, and shaping by Ng's theorem on a small MDP."""

from functools import cache
from itertools import combinations, product

import pytest
import torch
from torch import Tensor

from rdt.methods.drift import distinctness, potential, shaping, sigma, to_go, trim, window
from worlds import tiny_policy

REWARDS = tiny_policy.normal(20, 9)


def extent(rewards: Tensor) -> Tensor:
    """Return the distance between the largest and the smallest reward."""
    return rewards.max() - rewards.min()


@pytest.mark.parametrize("keep", [2, 5, 8, 9])
def test_window_has_the_smallest_extent_of_all_subsets(keep: int) -> None:
    for rewards, columns in zip(REWARDS, window(REWARDS, keep), strict=True):
        least = min(extent(rewards[list(subset)]) for subset in combinations(range(9), keep))
        assert extent(rewards[columns]) == least


def test_the_lowest_of_several_equally_narrow_windows_is_kept() -> None:
    assert window(torch.tensor([[4.0, 1.0, 3.0, 2.0]]), 2).tolist() == [[1, 3]]
    assert window(torch.ones(1, 4), 2).tolist() == [[0, 1]]


@pytest.mark.parametrize("keep", [2, 5, 8])
def test_sigma_keeps_what_some_multiple_of_the_deviation_keeps(keep: int) -> None:
    for rewards, columns in zip(REWARDS, sigma(REWARDS, keep), strict=True):
        distance = (rewards - rewards.mean()).abs() / rewards.std()
        c = distance[columns].max()
        assert (distance <= c).nonzero().flatten().tolist() == columns.tolist()


@pytest.mark.parametrize("keep, below, above", [(9, 0, 0), (7, 1, 1), (6, 1, 2)])
def test_trim_drops_equal_tails(keep: int, below: int, above: int) -> None:
    for rewards, columns in zip(REWARDS, trim(REWARDS, keep), strict=True):
        assert rewards[columns].sort().values.tolist() == rewards.sort().values[below : 9 - above].tolist()


@pytest.mark.parametrize("concentrate", [window, sigma, trim])
def test_keeping_all_changes_nothing(concentrate) -> None:
    assert concentrate(REWARDS, 9).tolist() == [list(range(9))] * 20


def test_every_selection_drops_an_outlier() -> None:
    rewards = torch.tensor([[0.3, 0.1, 9.0, 0.2, 0.25]])
    assert all(2 not in concentrate(rewards, 3)[0] for concentrate in (window, sigma, trim))


def test_distinctness_meets_its_definition() -> None:
    features = tiny_policy.normal(3, 5, 7)
    for group, found in zip(features, distinctness(features), strict=True):
        cosine = torch.nn.functional.cosine_similarity(group[:, None], group[None], dim=-1)
        expected = [1 - torch.stack([cosine[j, k] for k in range(5) if k != j]).mean() for j in range(5)]
        torch.testing.assert_close(found, torch.stack(expected))


def test_the_odd_one_out_has_the_highest_potential() -> None:
    features = torch.tensor([[[1.0, 0.1], [1.0, 0.0], [1.0, -0.1], [0.0, 1.0]]])
    phi = potential(distinctness(features))
    assert phi.argmax() == 3 and phi.min() == 0 and phi.max() == 1


def test_the_potential_lies_between_0_and_1_and_is_0_for_equal_images() -> None:
    phi = potential(REWARDS)
    assert phi.amin(1).tolist() == [0] * 20 and phi.amax(1).tolist() == [1] * 20
    alike = torch.ones(2, 4, 3) * (1 + 1e-7 * tiny_policy.normal(2, 4, 3))
    assert potential(distinctness(alike)).max() < 1e-2


@pytest.mark.parametrize("gamma", [1.0, 0.9])
def test_shaping_telescopes(gamma: float) -> None:
    """sum_{k >= i} gamma^k F_k is gamma^T Phi(x_T) - gamma^i Phi(x_i)."""
    phi = tiny_policy.normal(4, 7).double()
    expected = gamma**6 * phi[:, -1:] - gamma ** torch.arange(6).double() * phi[:, :-1]
    torch.testing.assert_close(to_go(shaping(phi, gamma), gamma), expected, rtol=0, atol=1e-14)


def test_shaping_telescopes_exactly_in_whole_numbers() -> None:
    phi = torch.tensor([0.0, 5.0, 2.0, 7.0, 3.0])
    assert shaping(phi, 1.0).sum() == phi[-1]
    assert to_go(shaping(phi, 0.5), 0.5)[0] == 3.0 / 16


# A tabular MDP of 3 steps, 3 states and 2 actions: it starts in state 0, and every state can follow every other.

T, S, A = 3, 3, 2
MOVES = tiny_policy.normal(S, A, S, seed=3).double().softmax(-1)
GAIN = torch.tensor([0.0, 0.3, 0.25], dtype=torch.double)  # reward by last state
PHI = tiny_policy.normal(T + 1, S, seed=4).double().abs()  # by time and state
PATHS = torch.tensor([[0, *rest] for rest in product(range(S), repeat=T)])


def potentials(terminal: str) -> Tensor:
    """Return every path's potentials (paths, T + 1): 0 at the start, and at the end 0 or the last state's diversity."""
    phi = PHI.clone()
    phi[0], phi[T] = 0, torch.tensor([1.0, 0.0, 0.2]) if terminal == "diversity" else 0
    return phi[torch.arange(T + 1), PATHS]


def returns(weight: float, terminal: str, gamma: float = 0.9) -> Tensor:
    """Return the last state's reward plus the weighted sum of shaping, (paths,)."""
    return GAIN[PATHS[:, -1]] + weight * to_go(shaping(potentials(terminal), gamma), gamma)[:, 0]


@cache
def probabilities() -> Tensor:
    """Return the probability of every path under every deterministic policy (T, S), (512 policies, paths)."""
    policies = torch.tensor(list(product(range(A), repeat=T * S))).view(-1, T, S)
    steps = [MOVES[PATHS[:, i], policies[:, i][:, PATHS[:, i]], PATHS[:, i + 1]] for i in range(T)]
    return torch.stack(steps).prod(0)


def best(weight: float, terminal: str) -> list[int]:
    """Return the numbers of the policies with the greatest expected return."""
    values = probabilities() @ returns(weight, terminal)
    return (values >= values.max() - 1e-12).nonzero().flatten().tolist()


def test_a_zero_terminal_potential_keeps_the_optimal_policy_and_diversity_changes_it() -> None:
    unshaped = best(0.0, "zero")
    assert best(1.0, "zero") == best(30.0, "zero") == unshaped
    assert not set(best(1.0, "diversity")) & set(unshaped)


def test_a_zero_terminal_potential_adds_no_gradient_and_diversity_does() -> None:
    """The advantages of `stepwise` shaping are a baseline: their expected gradient over all paths is 0."""

    def gradient(terminal: str) -> Tensor:
        logits = tiny_policy.normal(T, S, A, seed=5).double().requires_grad_()
        return torch.autograd.grad(surrogate(logits, to_go(shaping(potentials(terminal), 0.9), 0.9)), logits)[0]

    assert gradient("zero").abs().max() < 1e-15 < 1e-3 < gradient("diversity").abs().max()


def surrogate(logits: Tensor, advantages: Tensor) -> Tensor:
    """Return the sum of probability, log pi and advantage (paths, T) over paths and actions.

    Its gradient is the policy gradient.
    """
    total = logits.new_zeros(())
    for actions in product(range(A), repeat=T):
        log_pi = torch.stack([logits.log_softmax(-1)[i, PATHS[:, i], a] for i, a in enumerate(actions)], 1)
        moves = torch.stack([MOVES[PATHS[:, i], a, PATHS[:, i + 1]] for i, a in enumerate(actions)], 1)
        total = total + ((log_pi.exp() * moves).prod(1).detach()[:, None] * log_pi * advantages).sum()
    return total
