"""The views of one network: the adapter it runs under, kept when a checkpointed block is recomputed.

This is the only module that knows peft's private attributes. It sets flags only: peft's own switches change
requires_grad and lose gradients.

Where no gradient of its weights is needed, an adapter is merged into the weights that it adapts: one matrix product
instead of three. The merged weights are kept until the adapter changes, and the bare ones are never written to.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

TUNED, CONSISTENCY = "tuned", "consistency"  # the names of the trained and the frozen consistency adapter


class Views:
    """Switch the adapter that a network runs under; `merge` says whether adapters are merged where that is possible."""

    def __init__(self, network: nn.Module, merge: bool) -> None:
        self.layers = [m for m in network.modules() if isinstance(m, BaseTunerLayer)]
        self.merge = merge
        self._usual = [dict(layer.scaling) for layer in self.layers]  # the scaling that no context has changed
        self._merged: dict[str, _Merged] = {}

    def cast_inputs(self, enabled: bool) -> None:
        """Set whether adapters cast inputs to their own precision, a copy that autocast would undo."""
        for layer in self.layers:
            layer.cast_input_dtype_enabled = enabled

    @contextmanager
    def use(self, view: str | None) -> Iterator[None]:
        """Run the network under adapter `view`; None runs the bare network."""
        before = self._flags()
        if view is None:
            flags = [_Flags(True, was.active, was.scaling, was.weight) for was in before]
        elif self._mergeable(view):
            flags = self._merged_flags(view, before)
        else:
            flags = [_Flags(False, [view], was.scaling, was.weight) for was in before]
        with self._under(flags):
            yield

    @contextmanager
    def scaling(self, scale: float) -> Iterator[None]:
        """Multiply the trained adapter's contribution by `scale`."""
        with self._under([replace(was, scaling=_scaled(was.scaling, scale)) for was in self._flags()]):
            yield

    @contextmanager
    def paired(self) -> Iterator[None]:
        """Apply the trained adapter to the second half of a batch only."""
        with self._under([replace(was, scaling=_halved(was.scaling)) for was in self._flags()]):
            yield

    def checkpointed(self, block: Callable[..., Any], *args: Any) -> Any:
        """Run a block under torch's checkpoint; the backward pass recomputes it in the view of the forward pass.

        peft alone would recompute it under whichever adapter is active by then (huggingface/peft#2832).
        """
        flags = self._flags()

        def run(*inputs: Any) -> Any:
            with self._under(flags):
                return block(*inputs)

        return checkpoint(run, *args, use_reentrant=False)

    @contextmanager
    def _under(self, flags: list["_Flags"]) -> Iterator[None]:
        before = self._flags()
        self._set(flags)
        try:
            yield
        finally:
            self._set(before)

    def _mergeable(self, view: str) -> bool:
        """Return whether the next pass needs neither the gradient of the adapter nor a scale of its own."""
        if not self.merge or any(layer.scaling != usual for layer, usual in zip(self.layers, self._usual, strict=True)):
            return False
        trained = (layer.lora_A[view].weight.requires_grad for layer in self.layers if view in layer.lora_A)
        return not (torch.is_grad_enabled() and any(trained))

    def _merged_flags(self, view: str, before: list["_Flags"]) -> list["_Flags"]:
        """Return flags under which the layers run bare on merged weights, computed again if the adapter has changed."""
        layers = [layer if view in layer.lora_A else None for layer in self.layers]
        state = [
            (w.data_ptr(), w._version)
            for layer in layers
            if layer
            for w in (layer.lora_A[view].weight, layer.lora_B[view].weight, layer.get_base_layer().weight)
        ]
        known = self._merged.get(view)
        if known is None or known.state != state:
            known = self._merged[view] = _Merged(state, [_sum(layer, view) for layer in layers])
        rows = zip(before, known.weights, strict=True)
        return [_Flags(True, was.active, was.scaling, was.weight if sum is None else sum) for was, sum in rows]

    def _flags(self) -> list["_Flags"]:
        return [
            _Flags(layer._disable_adapters, layer._active_adapter, dict(layer.scaling), layer.get_base_layer().weight)
            for layer in self.layers
        ]

    def _set(self, flags: list["_Flags"]) -> None:
        for layer, flag in zip(self.layers, flags, strict=True):
            layer._disable_adapters, layer._active_adapter = flag.disabled, flag.active
            layer.scaling.update(flag.scaling)
            layer.get_base_layer()._parameters["weight"] = flag.weight  # the object is swapped, not what it holds


Scaling = dict[str, Any]  # adapter -> float or _SecondHalf; a layer need not have every adapter


@dataclass(frozen=True)
class _Flags:
    """Hold the switches of one layer."""

    disabled: bool
    active: list[str]
    scaling: Scaling
    weight: nn.Parameter  # of the layer that is adapted


@dataclass(frozen=True)
class _Merged:
    """Holds the weights of every layer with one adapter merged, None where a layer lacks it."""

    state: list[tuple[int, int]]  # of the tensors that they were computed from
    weights: list[nn.Parameter | None]


@torch.no_grad()
def _sum(layer: Any, view: str) -> nn.Parameter | None:
    """Return a layer's weight plus its adapter's product."""
    if layer is None:
        return None
    weight = layer.get_base_layer().weight
    return nn.Parameter(weight + layer.get_delta_weight(view), requires_grad=False)


@dataclass(frozen=True)
class _SecondHalf:
    """Scale the second half of a batch and zero the first: peft multiplies an adapter's output by it."""

    scale: float

    def __rmul__(self, update: Tensor) -> Tensor:
        half = len(update) // 2
        return torch.cat([torch.zeros_like(update[:half]), update[half:] * self.scale])


def _scaled(scaling: Scaling, scale: float) -> Scaling:
    return {name: value * scale if name == TUNED else value for name, value in scaling.items()}


def _halved(scaling: Scaling) -> Scaling:
    return {name: _SecondHalf(value) if name == TUNED else value for name, value in scaling.items()}
