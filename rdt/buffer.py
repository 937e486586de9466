"""Replay buffer: an in-memory ring of trajectories, latents sharded over ranks, rewards and prompts on every rank.

Draws of (trajectory, step) are made from what every rank knows, so they are the same at any world size.

Which stored states are replayed: strategies give each (trajectory, step) a probability.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


@dataclass(frozen=True)
class Stock:
    """What a sampling strategy sees of the M stored trajectories."""

    rewards: Tensor  # (M,) double
    floor: float  # the smallest reward ever added where that is negative, else 0
    latest: Tensor  # (M,) bool: of the latest add
    num_steps: int


Sampling = Callable[[Stock], Tensor]  # -> (M, T), proportional to the probability of (trajectory, step)


def uniform(stock: Stock) -> Tensor:
    """Every stored state alike."""
    return stock.rewards.new_ones(len(stock.rewards), stock.num_steps)


def on_policy(stock: Stock) -> Tensor:
    """Every state of the latest trajectories alike."""
    return uniform(stock) * stock.latest[:, None]


def prioritized(stock: Stock, *, gamma: float, omega: float) -> Tensor:
    """max(r - floor, 0)^omega gamma^(T - 1 - i).

    Where no trajectory has a positive priority all have the same one: what adding an epsilon tends to.
    """
    priority = (stock.rewards - stock.floor).clamp(min=0)
    priority = priority**omega if priority.any() else torch.ones_like(priority)
    return priority[:, None] * gamma ** torch.arange(stock.num_steps - 1, -1, -1).to(priority)


@dataclass(frozen=True)
class State:
    """Sampled states x_i, one row per draw."""

    x: Tensor  # (count, *latent)
    i: Tensor  # (count,) step index, long, on the host
    prompts: list[str]
    weights: Tensor  # (count,) importance weights on the host; 1 unless corrected

    def __getitem__(self, rows: slice) -> "State":
        return State(self.x[rows], self.i[rows], self.prompts[rows], self.weights[rows])


class ReplayBuffer:
    """Ring of `capacity` trajectories; each add replaces the oldest, and rank r holds the r-th slice of every add."""

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
        """Rewards of the newest add, (B,) float64."""
        first = (self._added - self._batch) % self.capacity
        return self._rewards[first : first + self._batch]

    def add(self, latents: Tensor, rewards: Tensor, prompts: list[str]) -> None:
        """Store this rank's latents (B / world, T + 1, *latent) with the GLOBAL rewards (B,) and prompts."""
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

    def sample(self, count: int, sampling: Sampling, generator: torch.Generator) -> State:
        """`count` states drawn with replacement, all rows on every rank; a generator of equal state on each."""
        slots, i, weights = self.draw(count, sampling, generator)
        x = self.own(slots, i)
        if self.world > 1:
            x = x.to(_wire())
            dist.all_reduce(x)  # every row comes from the one rank that holds it
        return State(x, i, [self._prompts[slot] for slot in slots.tolist()], weights)

    def draw(self, count: int, sampling: Sampling, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
        """Ring slots, step indices and weights, (count,) each; ValueError where nothing is stored."""
        if not len(self):
            raise ValueError(f"count={count} states asked of an empty buffer; add a rollout first")
        latest = (torch.arange(len(self)) - self._added) % self.capacity >= self.capacity - self._batch
        p = sampling(Stock(self._rewards[: len(self)], self._floor, latest, self.num_steps)).flatten()
        drawn = torch.multinomial(p, count, replacement=True, generator=generator)
        weights = p.sum() / (p.count_nonzero() * p[drawn]) if self.corrected else torch.ones(count)
        return drawn // self.num_steps, drawn % self.num_steps, weights.float()

    def own(self, slots: Tensor, i: Tensor) -> Tensor:
        """x_i (count, *latent) of the slots that this rank holds, 0 elsewhere."""
        share = self._batch // self.world
        mine = (slots % self._batch // share == self.rank).nonzero().squeeze(1)
        rows = slots // self._batch * share + slots % share
        x = self._latents.new_zeros(len(slots), *self._latents.shape[2:])
        x[mine] = self._latents[rows[mine], i[mine]]
        return x

    def state_dict(self) -> dict[str, Any]:
        """Tensors, lists and numbers, loadable at any world size; a collective: latents are whole on rank 0 alone."""
        return {
            "capacity": self.capacity, "added": self._added, "batch": self._batch, "floor": self._floor,
            "latents": self._whole(), "rewards": self._rewards[: len(self)].clone(),
            "prompts": self._prompts[: len(self)],
        }  # fmt: skip

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore; the next draws are those of the buffer that was saved. ValueError where it does not fit."""
        latents, batch, count = state["latents"], state["batch"], len(state["rewards"])
        wrong = count and (latents.shape[1] != self.num_steps + 1 or batch % self.world)
        if wrong or state["capacity"] != self.capacity:
            saved = f"capacity={state['capacity']} by {batch} and latents {tuple(latents.shape)}"
            raise ValueError(f"{saved} do not fit {self}")
        self._added, self._batch, self._floor = state["added"], batch, state["floor"]
        self._rewards[:count], self._prompts[:count] = state["rewards"], state["prompts"]
        if count:
            own = latents.unflatten(0, (-1, self.world, batch // self.world))[:, self.rank].flatten(0, 1)
            self._latents = own.new_empty(self.capacity // self.world, *own.shape[1:])
            self._latents[: len(own)] = own

    def __repr__(self) -> str:
        return f"ReplayBuffer(capacity={self.capacity}, num_steps={self.num_steps}, world={self.world})"

    def _whole(self) -> Tensor:
        """Latents of all ranks (M, T + 1, *latent) in slot order on the host, one add at a time."""
        own = self._latents[: len(self) // self.world]
        if self.world == 1 or not len(self):
            return own.cpu().clone()
        return torch.cat([gathered(part, self.rank, self.world) for part in own.split(self._batch // self.world)])

    def _check(self, latents: Tensor, rewards: Tensor, prompts: list[str]) -> None:
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
    """Where the process group can send from."""
    return torch.device("cuda", torch.cuda.current_device()) if dist.get_backend() == "nccl" else torch.device("cpu")


def gathered(part: Tensor, rank: int, world: int) -> Tensor:
    """All ranks' parts, of one size, on rank 0's host; nothing elsewhere."""
    if world == 1:
        return part.cpu().clone()
    part = part.to(_wire()).contiguous()
    parts = [torch.empty_like(part) for _ in range(world)] if rank == 0 else None
    dist.gather(part, parts)
    return torch.cat(parts).cpu() if parts else torch.empty(0)
