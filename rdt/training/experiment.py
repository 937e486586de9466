"""From a resolved config to the objects of a run."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from rdt import guidance
from rdt.config.curve import described, modules
from rdt.evaluation import Evaluator, Protocol
from rdt.fidelity import Overall
from rdt.methods.base import Method
from rdt.policy import Adapter, Denoiser, Policy
from rdt.prompts import check_disjoint
from rdt.result import label
from rdt.rewards.base import Affine, Reward
from rdt.rollout import Sampling
from rdt.stream import PromptData, PromptStream, subset


@dataclass(frozen=True)
class Guided:
    """One point of a guidance curve."""

    described: dict[str, Any]  # what it does, as result.json says it
    denoiser: Denoiser


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
        build = instantiate(self.cfg.model.policy, _partial_=True, _convert_="all")
        return build(adapter=Adapter(**self.cfg.model.lora))

    @cached_property
    def reward(self) -> Reward:
        own = {key: value for key, value in self.cfg.reward.items() if key not in ("name", "scale", "offset")}
        return instantiate(own, _convert_="all")

    @cached_property
    def method(self) -> Method:
        return instantiate(self.cfg.method.module)(
            policy=self.policy,
            reward=Affine(self.reward, scale=self.cfg.reward.scale, offset=self.cfg.reward.offset),
            sampling=self.sampling,
            batch_size=self.cfg.batch_size,
            micro_batch_size=self.cfg.get("micro_batch_size"),
            seed=self.cfg.seed,
            adam_eps=self.cfg.model.adam_eps,
        )

    @cached_property
    def prompt_sets(self) -> dict[str, list[str]]:
        """The training and the held-out prompts; ValueError where they share one."""
        sets = {name: instantiate(self.cfg.prompts[name], _convert_="all") for name in ("train", "held_out")}
        check_disjoint(**sets)
        return sets

    @cached_property
    def prompt_counts(self) -> dict[str, dict[str, int]]:
        """By split, how many prompts there are, and of how many the model reads only the beginning."""
        sets = self.prompt_sets.items()
        return {name: {"prompts": len(found), "overlong": self.policy.overlong(found)} for name, found in sets}

    @cached_property
    def data(self) -> PromptData:
        prompts = self.prompt_sets["train"]
        return PromptData(PromptStream(prompts, self.method.prompts_per_iteration, self.cfg.iterations, self.cfg.seed))

    def prompts(self) -> list[str]:
        """All that the run will condition on; the empty one is guidance's."""
        stream = self.data.stream
        trained = (prompt for k in range(stream.iterations) for prompt in stream.batch(k).prompts)
        evaluated = (*self.evaluator.protocol.prompts, *self.small_evaluator.protocol.prompts)
        return list(dict.fromkeys(["", *evaluated, *trained]))

    @cached_property
    def evaluator(self) -> Evaluator:
        """The full evaluation on held-out prompts."""
        overall = [instantiate(measure, _convert_="all") for measure in self.cfg.diversity.get("overall", {}).values()]
        return self._evaluator(self.cfg.evaluation.prompts, self.cfg.evaluation.kl_images, overall)

    @cached_property
    def small_evaluator(self) -> Evaluator:
        """The evaluation that runs during training: few training prompts, no KL, too few images to compare sets."""
        return self._evaluator(self.cfg.evaluation.small_prompts, 0, [], split="train")

    @cached_property
    def base(self) -> Denoiser:
        """The guided base."""
        return self.method.guided(self._base)

    def guided(self) -> Denoiser:
        """The denoiser that the run's guidance makes of the policy; of a curve, its first point."""
        return next(iter(self.curve().values())).denoiser

    def curve(self) -> dict[str, "Guided"]:
        """By label, every point that the run's guidance asks for: one, or one per value of its `curve`."""
        views = guidance.Views(self.policy, self._base, self.method.guided, self.sampling.num_steps)
        config = OmegaConf.to_container(self.cfg.guidance, resolve=True)
        made = [
            Guided(described(config | {"module": module}), instantiate(module)(views)) for module in modules(config)
        ]
        return {label(one.described): one for one in made}

    @cached_property
    def _base(self) -> Denoiser:
        """One memory for all that is evaluated: the base itself, the points of a curve, their KL."""
        return guidance.remembered(self.policy.base)

    def limit(self, images_per_prompt: int) -> dict[str, Any] | None:
        """The best any method could reach, where the world knows it."""
        if self.cfg.evaluation.limit is None:
            return None
        limit = instantiate(self.cfg.evaluation.limit, _convert_="all")
        return limit(list(self.evaluator.protocol.prompts), images_per_prompt, self.reward, self.cfg.reward.name)

    def _evaluator(self, prompts: int, kl_images: int, overall: list[Overall], split: str = "held_out") -> Evaluator:
        e, kind = self.cfg.evaluation, self.cfg.diversity
        chosen = subset(prompts=self.prompt_sets[split], count=prompts, seed=e.seed)
        protocol = Protocol(chosen, e.images_per_prompt, kl_images, e.batch_size, e.seed, tuple(e.grid))
        own = {self.cfg.reward.name: self.reward} | self.reward.components
        judges = {
            name: instantiate({key: value for key, value in judge.items() if key != "name"}, _convert_="all")
            for name, judge in e.judges.items()
        }
        return Evaluator(
            protocol,
            own | {name: judge for name, judge in judges.items() if name not in own},
            [instantiate(measure, _convert_="all") for measure in kind.measures.values()],
            [instantiate(measure, _convert_="all") for measure in kind.fidelity.values()],
            overall,
        )
