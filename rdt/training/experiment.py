"""Builds the objects of a run from its resolved config."""

import json
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from hydra.errors import InstantiationException
from omegaconf import DictConfig, OmegaConf

from rdt import guidance, targets
from rdt.config.curve import points
from rdt.config.judges import seen_judges
from rdt.errors import FORESEEN, UsageError, flat
from rdt.evaluation import Evaluator, Protocol
from rdt.fidelity import Overall
from rdt.methods.base import Method
from rdt.policy import Adapter, Denoiser, Policy
from rdt.prompts import check_disjoint, notices
from rdt.result import label
from rdt.rewards.base import Affine, Reward
from rdt.rollout import Sampling
from rdt.stream import PromptData, PromptStream, subset


def built(section: DictConfig | dict[str, Any], *others: str, partial: bool = False) -> Any:
    """Return the object of a config section, or its constructor with the section's arguments if `partial`.

    All keys of the section are arguments but for the `others`. UsageError if `rdt.targets` does not permit a target.
    """
    keys = OmegaConf.to_container(section, resolve=True) if isinstance(section, DictConfig) else section
    arguments = {key: value for key, value in keys.items() if key not in others}
    try:
        return targets.instantiate(arguments, partial)
    except InstantiationException as error:  # Hydra wraps the error that counts
        raise error.__cause__ if isinstance(error.__cause__, FORESEEN) else UsageError(flat(error)) from error


def constructed(section: DictConfig, *others: str, **given: Any) -> Any:
    """Return the object of a section whose constructor takes further arguments; UsageError if it takes others."""
    try:
        return built(section, *others, partial=True)(**given)
    except TypeError as error:
        if "required" in str(error) or "unexpected keyword" in str(error):
            raise UsageError(f"{section['_target_']}: {error}") from error
        raise


@dataclass(frozen=True)
class Guided:
    """Holds one point of a guidance curve."""

    described: dict[str, Any]  # the guidance, as result.json holds it
    denoiser: Denoiser


@dataclass
class Experiment:
    """Builds the objects that a config names, each on first use."""

    cfg: DictConfig

    @cached_property
    def sampling(self) -> Sampling:
        return Sampling(**OmegaConf.to_container(self.cfg.model.sampling, resolve=True))

    @cached_property
    def policy(self) -> Policy:
        torch.manual_seed(self.cfg.seed)  # the adapter's initialisation is the one draw from the global stream
        adapter = Adapter(**OmegaConf.to_container(self.cfg.model.lora, resolve=True))
        return constructed(self.cfg.model.policy, adapter=adapter)

    @cached_property
    def reward(self) -> Reward:
        reward = built(self.cfg.reward, "name", "scale", "offset")
        reward.key = f"reward={self.cfg.reward.name}"
        keys = OmegaConf.to_container(self.cfg.reward, resolve=True).items()
        reward.settings = json.dumps({k: v for k, v in keys if k not in ("scale", "offset")}, sort_keys=True)
        return reward

    @cached_property
    def scaled_reward(self) -> Affine:
        """The reward as methods see it."""
        return Affine(self.reward, scale=self.cfg.reward.scale, offset=self.cfg.reward.offset)

    @cached_property
    def trained(self) -> dict[str, Reward]:
        """The reward that the run trains on, and the rewards that it combines, by name."""
        return {self.cfg.reward.name: self.reward} | self.reward.components

    @cached_property
    def rewards(self) -> dict[str, Reward]:
        """All rewards that evaluations report, by name: those that are trained on, then the judges."""
        judges = {name: judge for name, judge in self.cfg.evaluation.judges.items() if judge}
        found = {name: built(judge, "name") for name, judge in judges.items() if name not in self.trained}
        for name, judge in found.items():
            judge.key = f"evaluation.judges.{name}"
        return self.trained | found

    @property
    def trained_on(self) -> tuple[str, ...] | None:
        """The names of the reported rewards that are no unseen judges; None if that is not known."""
        return tuple(dict.fromkeys([*self.trained, *seen_judges(self.cfg)]))

    @cached_property
    def method(self) -> Method:
        return constructed(
            self.cfg.method,
            "name",
            "plan",
            policy=self.policy,
            reward=self.scaled_reward,
            sampling=self.sampling,
            batch_size=self.cfg.batch_size,
            micro_batch_size=self.cfg.micro_batch_size,
            seed=self.cfg.seed,
            adam_eps=self.cfg.model.adam_eps,
        )

    @cached_property
    def prompt_sets(self) -> dict[str, list[str]]:
        """The training and the held-out prompts; ValueError if they share one."""
        sets = {name: built(self.cfg.prompts[name]) for name in ("train", "held_out") if name in self.cfg.prompts}
        check_disjoint(sets.get("train", ()), sets["held_out"])
        return sets

    @cached_property
    def prompt_counts(self) -> dict[str, dict[str, int]]:
        """The number of prompts in each split, and the number of those that are longer than the model reads."""
        sets = self.prompt_sets.items()
        return {name: {"prompts": len(found), "overlong": self.policy.overlong(found)} for name, found in sets}

    def notices(self) -> list[str]:
        """Return the lines that tell what of the prompts has no effect."""
        return notices(self.prompt_counts)

    @cached_property
    def data(self) -> PromptData:
        prompts = self.method.training_prompts(self.prompt_sets["train"])
        return PromptData(PromptStream(prompts, self.method.prompts_per_iteration, self.cfg.iterations, self.cfg.seed))

    def prompts(self) -> list[str]:
        """Return every prompt that the run will condition on; the empty one is for classifier-free guidance."""
        trained = self.method.conditioned_on(self.data.stream)
        evaluated = (*self.evaluator.protocol.prompts, *self.small_evaluator.protocol.prompts)
        return list(dict.fromkeys(["", *evaluated, *trained]))

    @cached_property
    def evaluator(self) -> Evaluator:
        """Return the full evaluation on held-out prompts."""
        overall = [built(measure) for measure in self.cfg.diversity.overall.values() if measure]
        return self._evaluator(self.cfg.evaluation.prompts, self.cfg.evaluation.kl_images, overall)

    @cached_property
    def small_evaluator(self) -> Evaluator:
        """Return the evaluation during training: it uses few training prompts and measures no KL and no whole sets."""
        return self._evaluator(self.cfg.evaluation.small_prompts, 0, [], split="train")

    @cached_property
    def base(self) -> Denoiser:
        """Return the base under classifier-free guidance."""
        return self.under_cfg(self._base)

    def under_cfg(self, view: Denoiser, scale: float | None = None) -> Denoiser:
        """Return a view of the policy under classifier-free guidance, at the model's scale unless one is given."""
        return self.method.guided(view, scale)

    def guided(self) -> Denoiser:
        """Return the policy under the run's guidance; of a curve, under its first point."""
        return next(iter(self.curve().values())).denoiser

    def curve(self) -> dict[str, Guided]:
        """Return, by label, every point of the run's guidance: one, or one per value of its `curve`."""
        reward = self.scaled_reward if self.cfg.get("reward") else None  # an evaluation of any adapter has none
        context = guidance.Context(self.policy, self._base, self.under_cfg, self.sampling.num_steps, reward)
        found = {}
        for arguments in points(OmegaConf.to_container(self.cfg.guidance, resolve=True)):
            point = built(arguments)
            described = {"name": self.cfg.guidance.name} | point.described
            found[label(described)] = Guided(described, point(context))
        return found

    @cached_property
    def _base(self) -> Denoiser:
        """The base with one memory for everything that is evaluated: itself, the points of a curve, and their KL."""
        return guidance.remembered(self.policy.base)

    def limit(self, images_per_prompt: int) -> dict[str, Any] | None:
        """Return the best that any method could reach, or None if the world does not know it."""
        if self.cfg.evaluation.limit is None:
            return None
        limit = built(self.cfg.evaluation.limit)
        return limit(list(self.evaluator.protocol.prompts), images_per_prompt, self.reward, self.cfg.reward.name)

    def _evaluator(self, prompts: int, kl_images: int, overall: list[Overall], split: str = "held_out") -> Evaluator:
        evaluation, diversity = self.cfg.evaluation, self.cfg.diversity
        chosen = subset(prompts=self.prompt_sets[split], count=prompts, seed=evaluation.seed)
        protocol = Protocol(
            chosen, evaluation.images_per_prompt, kl_images, evaluation.batch_size, evaluation.seed,
            tuple(evaluation.grid),
        )  # fmt: skip
        return Evaluator(
            protocol,
            self.rewards,
            [built(measure) for measure in diversity.measures.values() if measure],
            [built(measure) for measure in diversity.fidelity.values() if measure],
            overall,
        )
