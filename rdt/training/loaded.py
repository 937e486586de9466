"""Builds the objects of an evaluation that trains nothing: a model with published LoRAs as its adapter."""

from functools import cached_property
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from rdt import guidance, weights
from rdt.errors import UsageError
from rdt.models import adapters
from rdt.policy import Adapter, Denoiser, Policy
from rdt.rewards.base import Reward
from rdt.training import standalone
from rdt.training.experiment import Experiment, constructed


class LoadedExperiment(Experiment):
    """Builds a policy with the adapter that `lora` names; there are no method and no training reward."""

    @cached_property
    def policy(self) -> Policy:
        """The policy with the adapter in place; without one the tuned view is the base, bit for bit."""
        found = [(standalone.adapter_file(source), factor) for source, factor in standalone.adapters(self.cfg)]
        if not found:
            own = Adapter(**OmegaConf.to_container(self.cfg.model.lora, resolve=True))
            return constructed(self.cfg.model.policy, adapter=own)
        builder, model = self.cfg.model.policy["_target_"], Path(weights.locate(self.cfg.model.policy.source))
        try:
            read = [(adapters.read_published(file, builder, model), factor) for file, factor in found]
            tensors, adapter = adapters.merged(read)
            policy = constructed(self.cfg.model.policy, adapter=adapter)
            policy.load_lora(adapters.fitted(tensors, policy.lora()))
        except ValueError as error:
            raise UsageError(f"lora={self.cfg.lora}: {error}") from None
        return policy

    @cached_property
    def trained(self) -> dict[str, Reward]:
        """No reward: what an adapter was trained on is not in its file."""
        return {}

    @property
    def trained_on(self) -> tuple[str, ...] | None:
        """The judges that the user says the adapter was trained on; None if nothing is said."""
        return None if self.cfg.trained_on is None else tuple(self.cfg.trained_on)

    def under_cfg(self, view: Denoiser, scale: float | None = None) -> Denoiser:
        """Return a view of the policy under classifier-free guidance, at the model's scale unless one is given."""
        return guidance.cfg(view, self.policy.encode([""]), self.sampling.guidance_scale if scale is None else scale)

    def limit(self, images_per_prompt: int) -> dict[str, Any] | None:
        """Return None: a limit is of a reward that is trained on."""
        return None
