"""From a resolved config to the objects of a run."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from rdt.evaluation import Evaluator, Protocol
from rdt.methods.base import Method
from rdt.policy import Denoiser, Policy
from rdt.prompts import PromptData, PromptStream, subset
from rdt.rewards.base import Reward
from rdt.rollout import Sampling


@dataclass
class Experiment:
    """The objects a config names, each built on first use."""

    cfg: DictConfig

    @cached_property
    def sampling(self) -> Sampling:
        return Sampling(**OmegaConf.to_container(self.cfg.model.sampling, resolve=True))

    @cached_property
    def policy(self) -> Policy:
        torch.manual_seed(self.cfg.seed)  # the adapter's initialisation is the one draw from the global stream
        return instantiate(self.cfg.model.policy, _convert_="all")

    @cached_property
    def reward(self) -> Reward:
        return instantiate(self.cfg.reward.module, _convert_="all")

    @cached_property
    def method(self) -> Method:
        return instantiate(self.cfg.method.module)(
            policy=self.policy,
            reward=self.reward,
            sampling=self.sampling,
            batch_size=self.cfg.batch_size,
            seed=self.cfg.seed,
        )

    @cached_property
    def data(self) -> PromptData:
        prompts = instantiate(self.cfg.prompts.train, _convert_="all")
        return PromptData(PromptStream(prompts, self.method.prompts_per_iteration, self.cfg.iterations, self.cfg.seed))

    @cached_property
    def evaluator(self) -> Evaluator:
        """The full evaluation on held-out prompts."""
        return self._evaluator(self.cfg.evaluation.prompts, self.cfg.evaluation.kl_images)

    @cached_property
    def small_evaluator(self) -> Evaluator:
        """The evaluation that runs during training: few training prompts, no KL."""
        return self._evaluator(self.cfg.evaluation.small_prompts, 0, split="train")

    def guided(self, guidance: DictConfig | None = None) -> Denoiser:
        """The denoiser that a guidance config (default: the run's own) makes of the policy."""
        config = self.cfg.guidance if guidance is None else guidance
        mixed = instantiate(config.module)(policy=self.policy, num_steps=self.sampling.num_steps)
        return self.method.guided(mixed)

    @property
    def base(self) -> Denoiser:
        """The guided base."""
        return self.method.guided(self.policy.base)

    def limit(self, images_per_prompt: int) -> dict[str, Any] | None:
        """The best any method could reach, where the world knows it."""
        if self.cfg.evaluation.limit is None:
            return None
        limit = instantiate(self.cfg.evaluation.limit, _convert_="all")
        return limit(list(self.evaluator.protocol.prompts), images_per_prompt, self.reward, self.cfg.reward.name)

    def _evaluator(self, prompts: int, kl_images: int, split: str = "held_out") -> Evaluator:
        e, kind = self.cfg.evaluation, self.cfg.diversity
        chosen = subset(prompts=instantiate(self.cfg.prompts[split], _convert_="all"), count=prompts, seed=e.seed)
        protocol = Protocol(chosen, e.images_per_prompt, kl_images, e.batch_size, e.seed, tuple(e.grid))
        judges = {name: instantiate(judge, _convert_="all") for name, judge in e.judges.items()}
        return Evaluator(
            protocol,
            {self.cfg.reward.name: self.reward} | {k: v for k, v in judges.items() if k != self.cfg.reward.name},
            [instantiate(measure, _convert_="all") for measure in kind.measures.values()],
            [instantiate(measure, _convert_="all") for measure in kind.fidelity.values()],
        )
