"""The policy: ONE network with several views (base, tuned, consistency), prompt encoding and image decoding.

`rdt.models` builds a model's pieces as `Parts`; a policy adds the trainable adapter to them, and keeps named snapshots
of it: the average of its weights, or the policy as it was when a round began. A snapshot is an adapter like the trained
one that no optimiser moves. Its factors A and B are blended, so the average of two snapshots is not that of B A.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from peft import LoraConfig, get_peft_model_state_dict, set_peft_model_state_dict
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from rdt.cond import Cond, Conditions, Denoiser
from rdt.process import Process
from rdt.randomness import Noise
from rdt.views import CONSISTENCY, TUNED, Views
from rdt.weights import crc32

INIT = "init"  # the snapshot of the LoRA that training started from


@dataclass(frozen=True)
class Adapter:
    """Hold the shape of the low-rank adapter that is trained."""

    rank: int
    alpha: int
    targets: Sequence[str]


@dataclass(frozen=True, kw_only=True)
class Setup:
    """Hold how a model is run; the defaults suit a small one."""

    precision: str = "fp32"  # of the frozen weights; the adapter is always fp32
    resolution: int | None = None  # pixels along an image's side; None: as the network was configured
    channels_last: bool = False
    compile: bool = False
    slicing: bool = False  # decode image by image and recompute blocks in the backward pass, for large images
    embeddings: str | None = None  # a folder that stores conditions, so that text encoders are freed; None: they stay

    @property
    def dtype(self) -> torch.dtype:
        """Return the precision of the frozen weights."""
        return {"fp32": torch.float32, "bf16": torch.bfloat16}[self.precision]


PLAIN = Setup()


@dataclass(frozen=True)
class Parts:
    """Hold the pieces of a text-to-image model that a policy is made of."""

    network: nn.Module
    predict: Callable[[nn.Module, Tensor, Tensor, Cond], Tensor]  # calls the network and returns its raw output
    process: Process
    encode: Callable[[list[str]], Cond]  # frozen text encoders
    decode: Callable[[Tensor], Tensor]  # latents -> images (B, 3, H, W) in [0, 1], differentiable
    frozen: nn.ModuleList  # the modules of encode and decode, so that they move with the policy
    latent_shape: tuple[int, ...]
    save_lora: Callable[[dict[str, Tensor], dict[str, Any], Any], None]  # (weights, metadata, folder), diffusers format
    prepare: Callable[[Sequence[str]], None] = lambda prompts: (
        None
    )  # encodes prompts ahead of time and frees the text encoders
    overlong: Callable[[Sequence[str]], int] = lambda prompts: 0  # counts the prompts whose end is cut off


PAIRED_ROWS = 24  # up to so many rows one doubled batch beats two calls on a CPU; measured by benchmarks/aig.py


class Policy(nn.Module):
    """Run one frozen network with a trainable adapter; every view is a method, so a call says what it computes."""

    def __init__(self, parts: Parts, adapter: Adapter) -> None:
        super().__init__()
        self.network = parts.network.requires_grad_(False).eval()
        self._autocast = next(self.network.parameters()).dtype == torch.bfloat16
        self.adapter = adapter
        self.snapshots: list[str] = []  # the names of the adapters that `keep` has added
        self._add(adapter)
        self.frozen = parts.frozen.requires_grad_(False).eval()
        self.process, self.latent_shape = parts.process, parts.latent_shape
        self.overlong = parts.overlong
        self._parts = parts
        self._views = Views(self.network, merge=not self._autocast)  # half precision would round small updates away
        self._views.cast_inputs(not self._autocast)
        self._conditions = Conditions(parts.encode, parts.prepare)
        self.passes = 0  # network passes so far, per sample: the unit compute is compared in
        self.backward_passes = 0  # of these, those that a gradient went back through

    def _add(self, adapter: Adapter) -> None:
        """Add the trainable adapter in at least fp32; its B is 0, so the tuned view starts as the base, bit for bit."""
        targets = list(adapter.targets)
        config = LoraConfig(
            r=adapter.rank, lora_alpha=adapter.alpha, target_modules=targets, init_lora_weights="gaussian"
        )
        try:
            self.network.add_adapter(config, adapter_name=TUNED)
        except ValueError as error:
            raise ValueError(f"model.lora.targets={targets}: {error}") from None
        self._train_only_tuned()

    def base(self, x: Tensor, t: Tensor, cond: Cond) -> Tensor:
        """Return the output of the frozen base."""
        return self._predict(None, x, t, cond)

    def tuned(self, x: Tensor, t: Tensor, cond: Cond) -> Tensor:
        """Return the output of the network with the trained adapter."""
        return self._predict(TUNED, x, t, cond)

    def pair(self, x: Tensor, t: Tensor, cond: Cond) -> tuple[Tensor, Tensor]:
        """Return the outputs of base and tuned from one doubled batch, equal to two calls up to rounding."""
        with self._views.paired():
            both = self._predict(TUNED, torch.cat([x, x]), torch.cat([t, t]) if t.ndim else t, Cond.cat(cond, cond))
        base, tuned = both.chunk(2)
        return base, tuned

    def pairs(self, x: Tensor) -> bool:
        """Return whether `pair` is faster than two calls."""
        return x.is_cuda or len(x) <= PAIRED_ROWS

    def consistency(self, x: Tensor, t: Tensor, cond: Cond) -> Tensor:
        """Return the output of the network with the frozen consistency adapter; ValueError if the model has none."""
        if not self.has_consistency:
            raise ValueError("this model has no consistency adapter; set method.look_ahead=tweedie or n_step")
        return self._predict(CONSISTENCY, x, t, cond)

    def scaled(self, scale: float) -> Denoiser:
        """Return the tuned view with its adapter scaled; 0 is the base, 1 the tuned network."""

        def denoiser(x: Tensor, t: Tensor, cond: Cond) -> Tensor:
            with self._views.scaling(scale):
                return self._predict(TUNED, x, t, cond)

        return self.base if scale == 0 else denoiser

    def view(self, name: str) -> Denoiser:
        """Return the view of a snapshot; ValueError if none of that name was kept."""
        if name not in self.snapshots:
            raise ValueError(f"the policy has no snapshot {name}; it has {', '.join(self.snapshots) or 'none'}")
        return lambda x, t, cond: self._predict(name, x, t, cond)

    def keep(self, name: str) -> None:
        """Copy the trained adapter, both of its factors, into the snapshot `name`, which is made if it is new."""
        if name not in self.snapshots:
            if name in self.network.peft_config:
                raise ValueError(f"snapshot {name}: the network has another adapter of that name")
            with torch.random.fork_rng(devices=[]):  # its initial values are overwritten, so they draw nothing
                self.network.add_adapter(self.network.peft_config[TUNED], adapter_name=name)
            self.snapshots.append(name)
            self._train_only_tuned()
        self.blend(name, 0.0)

    @torch.no_grad()
    def blend(self, name: str, decay: float) -> None:
        """Move a snapshot towards the trained adapter: snapshot = decay * snapshot + (1 - decay) * tuned."""
        for kept, tuned in self._beside(name):
            if decay:
                kept.lerp_(tuned, 1 - decay)
            else:
                kept.copy_(tuned)

    @torch.no_grad()
    def exchange(self, name: str) -> None:
        """Exchange the weights of the trained adapter and of a snapshot; twice changes nothing."""
        for kept, tuned in self._beside(name):
            before = tuned.clone()
            tuned.copy_(kept)
            kept.copy_(before)

    @contextmanager
    def standing_in(self, name: str | None) -> Iterator[None]:
        """Let every view of the trained adapter run with the weights of a snapshot; None changes nothing."""
        if name:
            self.exchange(name)
        try:
            yield
        finally:
            if name:
                self.exchange(name)

    def _beside(self, name: str) -> list[tuple[Tensor, Tensor]]:
        """Return each weight of a snapshot with the trained adapter's weight at its place."""
        self.view(name)
        weights = dict(self.network.named_parameters())
        mark = f".{name}."
        return [(kept, weights[key.replace(mark, f".{TUNED}.")]) for key, kept in weights.items() if mark in key]

    def _train_only_tuned(self) -> None:
        """Let the trained adapter alone have gradients, in at least fp32: peft gives them to the adapter added last."""
        for key, weight in self.network.named_parameters():
            weight.requires_grad_(f".{TUNED}." in key)
            if any(f".{name}." in key for name in (TUNED, *self.snapshots)):
                weight.data = weight.data.to(torch.promote_types(weight.dtype, torch.float32))

    @property
    def has_consistency(self) -> bool:
        """Return whether the model has a consistency adapter."""
        return any(CONSISTENCY in layer.lora_A for layer in self._views.layers)

    @property
    def device(self) -> torch.device:
        """Return the device of the network."""
        return next(self.network.parameters()).device

    @cached_property
    def flops_per_pass(self) -> int:
        """Return the floating-point operations of one pass of one sample, counted once."""
        x = torch.zeros(1, *self.latent_shape, device=self.device)
        eager = torch.compiler.set_stance("force_eager")
        with torch.no_grad(), eager, self._precision(x), FlopCounterMode(display=False) as counter:
            self._parts.predict(self.network, x, torch.zeros((), device=self.device), self.encode([""]))
        return counter.get_total_flops()

    def prepare(self, prompts: Sequence[str]) -> None:
        """Encode these prompts now, then free the text encoders, unless they are kept in memory."""
        with torch.no_grad():
            self._parts.prepare(prompts)
        torch.cuda.empty_cache()

    def noise(self, seed: int, purpose: str, indices: Sequence[int]) -> Noise:
        """Return the noise of samples in the shape of their latents, on the policy's device."""
        return Noise(seed=seed, purpose=purpose, indices=indices, shape=self.latent_shape, device=self.device)

    def encode(self, prompts: Sequence[str]) -> Cond:
        """Return the conditions of prompts, one row per prompt."""
        return self._conditions(prompts, self.device)

    def decode(self, x0: Tensor) -> Tensor:
        """Return the images (B, 3, H, W) in [0, 1] of clean latents; differentiable."""
        return self._parts.decode(x0)

    def never_merge(self) -> None:
        """Run adapters beside the weights they adapt in every pass, as compiled blocks need it."""
        self._views.merge = False

    def checkpoint_blocks(self) -> None:
        """Turn on gradient checkpointing that recomputes each block under the view of its forward pass."""
        self.network.enable_gradient_checkpointing(self._views.checkpointed)

    def lora(self, name: str = TUNED) -> dict[str, Tensor]:
        """Return the weights of the trained adapter, or of a snapshot, under peft's names."""
        return get_peft_model_state_dict(self.network, adapter_name=name)

    def load_lora(self, weights: dict[str, Tensor], name: str = TUNED) -> None:
        """Replace the weights of the trained adapter, or of a snapshot; ValueError if names or shapes differ.

        A snapshot is made if it is new.
        """
        if name != TUNED and name not in self.snapshots:
            self.keep(name)
        own = self.lora(name)
        wrong = sorted(own.keys() ^ weights.keys()) or sorted(k for k in own if own[k].shape != weights[k].shape)
        if wrong:
            raise ValueError(
                f"LoRA does not fit this model: {len(wrong)} of {len(own)} tensors differ, first {wrong[0]}"
            )
        set_peft_model_state_dict(self.network, weights, adapter_name=name)

    def digest(self, name: str | None = None) -> str:
        """Return a digest of the frozen network, and of a snapshot of it; it does not depend on the other adapters."""
        own, predict = () if name is None else (f".{name}.",), self._parts.predict
        tensors = [*self.network.named_parameters(), *self.network.named_buffers()]
        read = {key.replace(".base_layer", ""): value for key, value in tensors if "lora_" not in key}
        read |= {key: value for key, value in tensors if any(mark in key for mark in own)}
        fixed = [one for one in getattr(predict, "args", ()) if isinstance(one, int | float | str)]  # FLUX's guidance
        return f"{crc32(read.items())}{''.join(f'-{one}' for one in fixed)}"

    def save_lora(self, folder: Any, name: str = TUNED) -> None:
        """Write the trained adapter, or a snapshot, in diffusers' format into a folder."""
        self._parts.save_lora(self.lora(name), self.network.peft_config[TUNED].to_dict(), folder)

    def _predict(self, view: str | None, x: Tensor, t: Tensor, cond: Cond) -> Tensor:
        self.passes += len(x)
        if torch.is_grad_enabled() and (view == TUNED or x.requires_grad):
            self.backward_passes += len(x)
        with self._views.use(view), self._precision(x):
            return self._parts.predict(self.network, x, t, cond)

    def _precision(self, x: Tensor) -> torch.autocast:
        """Return the autocast under which a half-precision network runs with its full-precision adapter."""
        return torch.autocast(x.device.type, torch.bfloat16, enabled=self._autocast)
