"""The replay buffer, an in-memory ring of trajectories, and the strategies that choose which states are replayed.

Latents are sharded across ranks; rewards and prompts are on every rank. Every rank draws (trajectory, step) from these
alone, so the draws are the same at any world size.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


@dataclass(frozen=True)
class Stock:
    """Hold what a strategy reads of the M stored trajectories."""

    rewards: Tensor  # (M,) double
    floor: float  # the smallest reward ever added if that is negative, else 0
    latest: Tensor  # (M,) bool, True for the trajectories of the latest add
    num_steps: int


Strategy = Callable[[Stock], Tensor]  # returns weights (M, T), proportional to the probability of (trajectory, step)


def uniform(stock: Stock) -> Tensor:
    """Give every stored state the same weight, (M, T)."""
    return stock.rewards.new_ones(len(stock.rewards), stock.num_steps)


def on_policy(stock: Stock) -> Tensor:
    """Give every state of the latest trajectories the same weight, (M, T), and all others 0."""
    return uniform(stock) * stock.latest[:, None]


def prioritized(stock: Stock, *, gamma: float, omega: float) -> Tensor:
    """Return the weights max(r - floor, 0)^omega gamma^(T - 1 - i), (M, T).

    If no trajectory has a positive priority, all get the same one, the limit of adding a small epsilon to each.
    """
    priority = (stock.rewards - stock.floor).clamp(min=0)
    priority = priority**omega if priority.any() else torch.ones_like(priority)
    return priority[:, None] * gamma ** torch.arange(stock.num_steps - 1, -1, -1).to(priority)


@dataclass(frozen=True)
class State:
    """Hold states x_i drawn from the buffer, one row per draw."""

    x: Tensor  # (count, *latent)
    i: Tensor  # (count,) step index, long, on the host
    prompts: list[str]
    weights: Tensor  # (count,) importance weights on the host; 1 unless corrected

    def __getitem__(self, rows: slice) -> "State":
        return State(self.x[rows], self.i[rows], self.prompts[rows], self.weights[rows])


class ReplayBuffer:
    """A ring of `capacity` trajectories: each add replaces the oldest, and rank r holds the r-th slice of every add."""

    def __init__(
        self, *, capacity: int, num_steps: int, rank: int = 0, world: int = 1, corrected: bool = False
    ) -> None:
        self.capacity, self.num_steps, self.corrected = capacity, num_steps, corrected
        self.rank, self.world = rank, world
        self._latents = torch.empty(0)  # (capacity / world, T + 1, *latent), on the device of the latest add
        self._rewards = torch.zeros(capacity, dtype=torch.double)
        self._prompts = [""] * capacity
        self._added, self._batch, self._floor = 0, 1, 0.0  # trajectories so far, per add, smallest reward or 0

    def __len__(self) -> int:
        return min(self._added, self.capacity)

    @property
    def latest(self) -> Tensor:
        """Return the rewards of the latest add, (B,) float64."""
        first = (self._added - self._batch) % self.capacity
        return self._rewards[first : first + self._batch]

    def add(self, latents: Tensor, rewards: Tensor, prompts: list[str]) -> None:
        """Store this rank's latents (B / world, T + 1, *latent) with the rewards (B,) and prompts of ALL ranks."""
        rewards = rewards.detach().cpu().double()
        self._check(latents, rewards, prompts)
        first, own = self._added % self.capacity, self._added % self.capacity // self.world
        if not self._latents.numel():
            self._latents = latents.new_empty(self.capacity // self.world, *latents.shape[1:])
        self._latents = self._latents.to(latents.device)
        self._latents[own : own + len(latents)] = latents
        self._rewards[first : first + len(prompts)] = rewards
        self._prompts[first : first + len(prompts)] = prompts
        self._added, self._batch = self._added + len(prompts), len(prompts)
        self._floor = min(self._floor, float(rewards.min()))

    def sample(self, count: int, strategy: Strategy, generator: torch.Generator) -> State:
        """Return `count` states drawn with replacement, all rows on every rank; each rank passes an equal generator."""
        slots, i, weights = self.draw(count, strategy, generator)
        x = self.own(slots, i)
        if self.world > 1:
            x = x.to(_wire())
            dist.all_reduce(x)  # every row comes from the one rank that holds it
        return State(x, i, [self._prompts[slot] for slot in slots.tolist()], weights)

    def draw(self, count: int, strategy: Strategy, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
        """Return ring slots, step indices and importance weights, (count,) each; ValueError if nothing is stored."""
        if not len(self):
            raise ValueError(f"cannot draw count={count} states from an empty buffer; add a rollout first")
        latest = (torch.arange(len(self)) - self._added) % self.capacity >= self.capacity - self._batch
        p = strategy(Stock(self._rewards[: len(self)], self._floor, latest, self.num_steps)).flatten()
        drawn = torch.multinomial(p, count, replacement=True, generator=generator)
        weights = p.sum() / (p.count_nonzero() * p[drawn]) if self.corrected else torch.ones(count)
        return drawn // self.num_steps, drawn % self.num_steps, weights.float()

    def own(self, slots: Tensor, i: Tensor) -> Tensor:
        """Return x_i (count, *latent) of the slots that this rank holds, and 0 in all other rows."""
        share = self._batch // self.world
        mine = (slots % self._batch // share == self.rank).nonzero().squeeze(1)
        rows = slots // self._batch * share + slots % share
        x = self._latents.new_zeros(len(slots), *self._latents.shape[2:])
        x[mine] = self._latents[rows[mine], i[mine]]
        return x

    def state_dict(self) -> dict[str, Any]:
        """Return the contents, loadable at any world size. A collective call: only rank 0 gets the latents."""
        return {
            "capacity": self.capacity, "added": self._added, "batch": self._batch, "floor": self._floor,
            "latents": self._whole(), "rewards": self._rewards[: len(self)].clone(),
            "prompts": self._prompts[: len(self)],
        }  # fmt: skip

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the contents, so that draws continue those of the saved buffer; ValueError if they do not fit."""
        latents, batch, count = state["latents"], state["batch"], len(state["rewards"])
        wrong = count and (latents.shape[1] != self.num_steps + 1 or batch % self.world)
        if wrong or state["capacity"] != self.capacity:
            saved = f"capacity={state['capacity']}, batch={batch} and latents {tuple(latents.shape)}"
            raise ValueError(f"the saved {saved} do not fit {self}")
        self._added, self._batch, self._floor = state["added"], batch, state["floor"]
        self._rewards[:count], self._prompts[:count] = state["rewards"], state["prompts"]
        if count:
            own = latents.unflatten(0, (-1, self.world, batch // self.world))[:, self.rank].flatten(0, 1)
            self._latents = own.new_empty(self.capacity // self.world, *own.shape[1:])
            self._latents[: len(own)] = own

    def __repr__(self) -> str:
        return f"ReplayBuffer(capacity={self.capacity}, num_steps={self.num_steps}, world={self.world})"

    def _whole(self) -> Tensor:
        """Return the latents of all ranks (M, T + 1, *latent) on rank 0's host, in slot order, gathered add by add."""
        own = self._latents[: len(self) // self.world]
        if self.world == 1 or not len(self):
            return own.cpu().clone()
        return torch.cat([gathered(part, self.rank, self.world) for part in own.split(self._batch // self.world)])

    def _check(self, latents: Tensor, rewards: Tensor, prompts: list[str]) -> None:
        """Raise ValueError unless an add fits the ring and its rewards are finite."""
        batch = len(prompts)
        if len(rewards) != batch or len(latents) * self.world != batch:
            raise ValueError(f"{len(rewards)} rewards, {len(latents)} latents x {self.world} ranks for {batch} prompts")
        if not batch or self.capacity % batch or (self._added and batch != self._batch):
            raise ValueError(f"capacity={self.capacity} must be a multiple of the batch={batch}, the same at every add")
        if latents.shape[1] != self.num_steps + 1:
            raise ValueError(f"latents hold {latents.shape[1]} times, not num_steps + 1 = {self.num_steps + 1}")
        if not rewards.isfinite().all():
            raise ValueError(f"{int((~rewards.isfinite()).sum())} of {batch} rewards are not finite")


def _wire() -> torch.device:
    """Return the device that the process group sends from."""
    return torch.device("cuda", torch.cuda.current_device()) if dist.get_backend() == "nccl" else torch.device("cpu")


def gathered(part: Tensor, rank: int, world: int) -> Tensor:
    """Return the parts of all ranks, equal in size, on rank 0's host, and an empty tensor on the other ranks."""
    if world == 1:
        return part.cpu().clone()
    part = part.to(_wire()).contiguous()
    parts = [torch.empty_like(part) for _ in range(world)] if rank == 0 else None
    dist.gather(part, parts)
    return torch.cat(parts).cpu() if parts else torch.empty(0)
