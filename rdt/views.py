"""The views of one network: the adapter it runs under, kept when a checkpointed block is recomputed.

This is the only module that knows peft's private attributes. It sets flags only: peft's own switches change
requires_grad and lose gradients.

Where it is faster, an adapter is merged into the weights that it adapts, one matrix product instead of three: always
where no gradient of the adapter is needed, and then the merged weights are kept until it changes; in training in small
layers, where the gradient goes through the sum. The bare weights are never written to.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

BESIDE = 8  # multiplications of a merged layer that cost as much as one of its adapter; measured on CPUs
TUNED, CONSISTENCY = "tuned", "consistency"  # the names of the trained and the frozen consistency adapter
OWN = (TUNED, CONSISTENCY)  # a snapshot is merged as in training: it gives the bits of a trained adapter that equals it


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
        with self._under(
            [_Flags(True, was.active, was.scaling, was.weight) for was in self._flags()]
            if view is None
            else self._adapted(view)
        ):
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

    def _adapted(self, view: str) -> list["_Flags"]:
        """Return the flags of every layer under an adapter, merged where that is possible and faster."""
        sums = self._sums(view) if self.merge and self._unscaled() else [None] * len(self.layers)
        return [
            _Flags(False, [view], was.scaling, was.weight)
            if sum is None
            else _Flags(True, was.active, was.scaling, sum)
            for was, sum in zip(self._flags(), sums, strict=True)
        ]

    def _unscaled(self) -> bool:
        """Return whether no context has changed a scaling; an adapter that was added later has its usual one."""
        pairs = zip(self.layers, self._usual, strict=True)
        return all(usual.items() <= layer.scaling.items() for layer, usual in pairs)

    def _sums(self, view: str) -> list[Tensor | None]:
        """Return each layer's weight with the adapter merged; None if it has none or runs beside the weight."""
        owners = [layer for layer in self.layers if view in layer.lora_A]
        if torch.is_grad_enabled() and any(layer.lora_A[view].weight.requires_grad for layer in owners):
            return [_sum(layer, view) if layer in owners and _is_small(layer, view) else None for layer in self.layers]
        state = [(part.data_ptr(), part._version) for layer in owners for part in _parts(layer, view)]
        known = self._merged.get(view)
        if known is None or known.state != state:
            merged = [layer in owners and (view in OWN or _is_small(layer, view)) for layer in self.layers]
            with torch.no_grad():
                sums = [_sum(layer, view) if one else None for layer, one in zip(self.layers, merged, strict=True)]
            known = self._merged[view] = _Merged(state, sums)
        return known.sums

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
    weight: Tensor  # of the layer that is adapted


@dataclass(frozen=True)
class _Merged:
    """Holds the weights of every layer with one adapter merged; None for a layer without it."""

    state: list[tuple[int, int]]  # of the tensors that they were computed from
    sums: list[Tensor | None]


def _parts(layer: Any, view: str) -> tuple[Tensor, Tensor, Tensor]:
    """Return the weight of a layer and the two factors of its adapter."""
    return layer.get_base_layer().weight, layer.lora_B[view].weight, layer.lora_A[view].weight


def _sum(layer: Any, view: str) -> Tensor:
    """Return a layer's weight plus its adapter's product, with the adapter's gradient if that is enabled."""
    weight, up, down = _parts(layer, view)
    if up.ndim == 2:
        return weight + layer.scaling[view] * (up @ down)
    return weight + layer.get_delta_weight(view)  # of convolutions


def _is_small(layer: Any, view: str) -> bool:
    """Say whether the gradient of the whole weight costs less than the adapter's two products and their sum.

    It takes in x out multiplications a row, where the adapter takes 2 rank (in + out) at about a quarter of the rate.
    """
    weight, up, _ = _parts(layer, view)
    return up.ndim == 2 and weight.numel() <= BESIDE * up.shape[1] * sum(weight.shape)


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
