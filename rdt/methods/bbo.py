"""Online black-box optimisation, SQDF's second task (Kang et al., arXiv 2512.04559, after SEIKO, arXiv 2402.16359).

The oracle is any reward, called for its scores alone and at most `budget` times. Calls made by evaluation are neither
counted nor learned from. Training runs in rounds:
    query     the oracle scores images of the current policy;
    fit       a surrogate is fitted from scratch to all answers so far;
    improve   SQDF climbs the surrogate's optimistic estimate, from an empty buffer and with a fresh optimiser state.

Departures from the official code, besides SQDF's and the surrogates': prompts are queried as they are (a fifth of
theirs is decorated), and one adapter is trained throughout (theirs is copied into another each round).

A run that was killed calls the oracle only for images that it was not called for before: rdt/methods/journal.py.
"""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from rdt.methods.base import named
from rdt.methods.journal import Journal
from rdt.methods.sqdf import SQDF
from rdt.randomness import generator
from rdt.rewards.base import Reward
from rdt.rewards.surrogate import BudgetedOracle, FeatureModel, Surrogate
from rdt.stream import Batch


@dataclass(frozen=True)
class Answers:
    """Hold the oracle's scores of N images, on the host."""

    phi: Tensor  # (N, D) features of image and prompt
    scores: Tensor  # (N,)
    rows: Tensor  # (N,) numbers of the images in their round

    @staticmethod
    def cat(parts: list["Answers"]) -> "Answers":
        """Return the answers of all parts, in order."""
        columns = zip(*((part.phi, part.scores, part.rows) for part in parts), strict=True)
        return Answers(*map(torch.cat, columns))

    def present(self, chosen: Tensor) -> "Answers":
        """Return the answers that are chosen by a mask (N,)."""
        return Answers(self.phi[chosen], self.scores[chosen], self.rows[chosen])


class BBO(SQDF):
    """Train by SQDF on `self.reward`, a surrogate of a budgeted oracle, in rounds of `updates_per_round` iterations."""

    needs_gradient = False  # of the oracle; the surrogate has one

    def __init__(
        self, *, reward: Reward, surrogate: Surrogate, queries: list[int], budget: int, updates_per_round: int,
        query_batch_size: int, **shared: Any,
    ) -> None:  # fmt: skip
        super().__init__(reward=surrogate, **shared)
        if not queries or min(*queries, updates_per_round, query_batch_size) < 1:
            given = f"queries={queries}, updates_per_round={updates_per_round}, query_batch_size={query_batch_size}"
            raise ValueError(f"method: {given} must each be at least 1")
        self.oracle = BudgetedOracle(oracle=reward, budget=budget)
        self.queries, self.updates_per_round, self.query_batch_size = queries, updates_per_round, query_batch_size
        self.answers: list[Answers] = []  # one entry per round
        self.journal = Journal(None)
        self.round_metrics: dict[str, float] = {}  # of the latest round
        self.learned: dict[str, Tensor] = {}  # the surrogate's weights in the checkpoint that the run continues

    def training_step(self, batch: Batch, _: int) -> None:
        round, update = divmod(self.iteration, self.updates_per_round)
        self.urgent = update == 0 and self.calls(round) > 0  # oracle calls are expensive, so save them at once
        if self.urgent:
            self.answers.append(self.query(round))
            self.fit(round)
            self.reset()
        self.log_train(**self.round_metrics)
        super().training_step(batch, _)

    def calls(self, round: int) -> int:
        """Return how many oracle calls a round makes: its queries, or what is left of the budget."""
        return min(self.queries[round], self.oracle.left) if round < len(self.queries) else 0

    def query(self, round: int) -> Answers:
        """Return the oracle's answers about images of the current policy; each rank queries its share of them."""
        prompts = self.query_prompts(round)
        rank, world, size = self.share.rank, self.share.world, self.query_batch_size
        rows = range(rank * len(prompts) // world, (rank + 1) * len(prompts) // world)  # may be uneven
        chunks = [rows[k : k + size] for k in range(0, len(rows), size)]
        own = [self.answered(round, chunk, [prompts[row] for row in chunk]) for chunk in chunks]
        self.oracle.charge(len(prompts) - len(rows))  # the other ranks' calls
        found = Answers.cat(own if world == 1 else _gathered(own, world))
        if not len(found.scores):
            raise ValueError(f"method.budget={self.oracle.budget}: round {round} was charged, and no answer was kept")
        asked = [prompts[row] for row in found.rows.tolist()]
        found = found.present(~self.check_scores("oracle", self.oracle, found.scores, asked))
        self.round_metrics = {
            "queries": self.oracle.calls, "oracle": found.scores.mean().item()
        } | self.correlation(found)  # fmt: skip
        return found

    def query_prompts(self, round: int) -> list[str]:
        """Return training prompts for a round's queries, drawn with replacement, the same on every rank."""
        known, stream = self.trainer.datamodule.stream.prompts, generator(self.seed, "query prompts", round)
        return [known[row] for row in torch.randint(len(known), (self.calls(round),), generator=stream).tolist()]

    @torch.no_grad()
    def answered(self, round: int, rows: range, prompts: list[str]) -> Answers:
        """Sample images of the tuned policy and return their answers; `rows` are their numbers in the round.

        Answers that the journal holds are not called for again, and images that were charged without one are left out.
        """
        noise, tuned = self.policy.noise(self.seed, f"query{round}", rows), self.guided(self.policy.tuned)
        images = self.policy.decode(self.counted_rollout(tuned, prompts, noise, self.sampling).clean)
        new = [k for k, row in enumerate(rows) if (round, row) not in self.journal.charged]
        self.oracle.charge(len(rows) - len(new))
        if new:
            asked = [rows[k] for k in new]
            self.journal.charge(round, asked)
            scores = self.oracle(images[new], [prompts[k] for k in new]).float().cpu()
            self.journal.answer(round, asked, scores.tolist())
        kept = [row for row in rows if (round, row) in self.journal.scores]
        phi = self.reward.phi(images, prompts)[[row - rows.start for row in kept]].cpu()
        scores = torch.tensor([self.journal.scores[round, row] for row in kept])
        return Answers(phi, scores, torch.tensor(kept, dtype=torch.long))

    @torch.no_grad()
    def correlation(self, fresh: Answers) -> dict[str, float]:
        """Return how the surrogate's estimates correlate with answers it was not fitted to; {} in the first round."""
        if not self.answers:
            return {}
        mean, _ = self.reward.estimate(fresh.phi.to(self.device))
        return {"correlation": torch.corrcoef(torch.stack([mean.cpu(), fresh.scores]))[0, 1].nan_to_num().item()}

    def fit(self, round: int) -> None:
        """Fit the surrogate from scratch to all answers so far."""
        known, stream = Answers.cat(self.answers), generator(self.seed, "surrogate", round)
        self.reward.fit(known.phi.to(self.device), known.scores.to(self.device), stream)

    def reset(self) -> None:
        """Start the round with an empty buffer and a fresh optimiser state."""
        self.buffer = self.empty_buffer()
        self.optimizers().optimizer.state.clear()

    def on_fit_start(self) -> None:
        super().on_fit_start()
        self.journal = Journal(self.folder and self.folder / "oracle")
        self.trainer.strategy.barrier()  # so that all ranks have read what the others are about to extend
        self.reward.load({name: value.to(self.device) for name, value in self.learned.items()})

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_save_checkpoint(checkpoint)
        checkpoint["calls"], checkpoint["answers"] = self.oracle.calls, [asdict(round) for round in self.answers]
        checkpoint["surrogate"], checkpoint["round_metrics"] = self.reward.learned(), self.round_metrics

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_load_checkpoint(checkpoint)
        self.oracle.calls, self.answers = checkpoint["calls"], [Answers(**round) for round in checkpoint["answers"]]
        self.learned, self.round_metrics = checkpoint["surrogate"], checkpoint["round_metrics"]


def build(
    *, surrogate: str, surrogates: Mapping[str, Callable[..., Surrogate]], features: FeatureModel, beta: float,
    **arguments: Any,
) -> BBO:  # fmt: skip
    """Return the method with the surrogate that is named among `surrogates`."""
    return BBO(
        surrogate=named("method.surrogate", surrogate, dict(surrogates))(features=features, beta=beta), **arguments
    )


def _gathered(own: list[Answers], world: int) -> list[Answers]:
    """Return every rank's answers in the order of ranks; a rank may have none."""
    parts: list[list[Answers]] = [[] for _ in range(world)]
    dist.all_gather_object(parts, own)
    return [answers for part in parts for answers in part]
