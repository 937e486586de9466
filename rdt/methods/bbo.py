"""Online black-box optimisation, SQDF's second task (Kang et al., arXiv 2512.04559, after SEIKO, arXiv 2402.16359).

The oracle is any reward, asked for numbers alone and at most `budget` times; what evaluation reads of it is neither
counted nor learned from. In rounds:
    query     images of the current policy are scored by the oracle;
    fit       a surrogate learns anew from every answer so far;
    improve   SQDF climbs the surrogate's optimistic estimate, from an empty buffer and with a fresh optimiser.
Departures from the official code, besides SQDF's and the surrogates': prompts are queried as they are (a fifth of
theirs is decorated), and one adapter is trained on (theirs is copied into another each round).
"""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from rdt.methods.base import named
from rdt.methods.sqdf import SQDF
from rdt.randomness import generator
from rdt.rewards.base import Reward
from rdt.rewards.surrogate import BudgetedOracle, FeatureModel, Surrogate
from rdt.rollout import Noise, rollout
from rdt.stream import Batch


@dataclass(frozen=True)
class Answers:
    """What the oracle said of N images, on the host."""

    phi: Tensor  # (N, D) features of image and prompt
    scores: Tensor  # (N,)

    @staticmethod
    def cat(parts: list["Answers"]) -> "Answers":
        """All of them, in order."""
        return Answers(torch.cat([part.phi for part in parts]), torch.cat([part.scores for part in parts]))


class BBO(SQDF):
    """SQDF against a surrogate, `self.reward`, of a budgeted oracle; a round every `updates_per_round` iterations."""

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
        self.answers: list[Answers] = []  # of each round
        self.told: dict[str, float] = {}  # of the latest round
        self.learned: dict[str, Tensor] = {}  # by the surrogate, in the checkpoint that the run continues

    def training_step(self, batch: Batch, _: int) -> None:
        round, update = divmod(self.iteration, self.updates_per_round)
        self.urgent = update == 0 and self.calls(round) > 0  # answers are paid for
        if self.urgent:
            self.answers.append(self.query(round))
            self.fit(round)
            self.start_over()
        self.report(**self.told)
        super().training_step(batch, _)

    def calls(self, round: int) -> int:
        """How many calls a round makes: what it asks for, as far as the budget goes."""
        return min(self.queries[round], self.oracle.left) if round < len(self.queries) else 0

    def query(self, round: int) -> Answers:
        """The oracle's scores of images of the current policy, each asked for by one rank."""
        prompts = self.query_prompts(round)
        rank, world = self.global_rank, self.trainer.world_size
        mine = range(rank * len(prompts) // world, (rank + 1) * len(prompts) // world)
        chunks = [mine[k : k + self.query_batch_size] for k in range(0, len(mine), self.query_batch_size)]
        own = [self.asked(round, rows, [prompts[row] for row in rows]) for rows in chunks]
        self.oracle.charge(len(prompts) - len(mine))  # the other ranks' calls
        found = Answers.cat(own if world == 1 else _gathered(own, world))
        self.check_finite("oracle", found.scores)
        self.told = {"queries": self.oracle.calls, "oracle": found.scores.mean().item()} | self.foretold(found)
        return found

    def query_prompts(self, round: int) -> list[str]:
        """Training prompts of a round's queries, drawn with replacement, the same on every rank."""
        known, of_round = self.trainer.datamodule.stream.prompts, generator(self.seed, "query prompts", round)
        return [known[row] for row in torch.randint(len(known), (self.calls(round),), generator=of_round).tolist()]

    @torch.no_grad()
    def asked(self, round: int, rows: range, prompts: list[str]) -> Answers:
        """Images of the tuned policy, sampled and scored; `rows` are their numbers in the round."""
        noise = Noise(
            seed=self.seed, purpose=f"query{round}", indices=rows, shape=self.policy.latent_shape, device=self.device
        )
        self.images += len(rows)
        view, process, s = self.guided(self.policy.tuned), self.policy.process, self.sampling
        latents = rollout(view, process, self.policy.encode(prompts), noise, s.num_steps, s.eta).clean
        images = self.policy.decode(latents)
        return Answers(self.reward.phi(images, prompts).cpu(), self.oracle(images, prompts).float().cpu())

    @torch.no_grad()
    def foretold(self, fresh: Answers) -> dict[str, float]:
        """How well the surrogate knew answers that it has not learned from yet; nothing in the first round."""
        if not self.answers:
            return {}
        mean, _ = self.reward.estimate(fresh.phi.to(self.device))
        return {"correlation": torch.corrcoef(torch.stack([mean.cpu(), fresh.scores]))[0, 1].nan_to_num().item()}

    def fit(self, round: int) -> None:
        """The surrogate learns anew from every answer so far."""
        known = Answers.cat(self.answers)
        of_round = generator(self.seed, "surrogate", round)
        self.reward.fit(known.phi.to(self.device), known.scores.to(self.device), of_round)

    def start_over(self) -> None:
        """What was replayed and averaged under the surrogate before is forgotten."""
        self.buffer = self.empty_buffer()
        self.optimizers().optimizer.state.clear()

    def on_fit_start(self) -> None:
        super().on_fit_start()
        self.reward.load({name: value.to(self.device) for name, value in self.learned.items()})

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_save_checkpoint(checkpoint)
        checkpoint["calls"], checkpoint["answers"] = self.oracle.calls, [asdict(round) for round in self.answers]
        checkpoint["surrogate"], checkpoint["told"] = self.reward.learned(), self.told

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_load_checkpoint(checkpoint)
        self.oracle.calls, self.answers = checkpoint["calls"], [Answers(**round) for round in checkpoint["answers"]]
        self.learned, self.told = checkpoint["surrogate"], checkpoint["told"]


def build(
    *, surrogate: str, surrogates: Mapping[str, Callable[..., Surrogate]], features: FeatureModel, beta: float,
    **arguments: Any,
) -> BBO:  # fmt: skip
    """Return the method with the surrogate that is named among `surrogates`."""
    return BBO(
        surrogate=named("method.surrogate", surrogate, dict(surrogates))(features=features, beta=beta), **arguments
    )


def _gathered(own: list[Answers], world: int) -> list[Answers]:
    """Every rank's answers, in the order of ranks; a rank may have none."""
    parts: list[list[Answers]] = [[] for _ in range(world)]
    dist.all_gather_object(parts, own)
    return [answers for part in parts for answers in part]
