"""The views of one network: which adapter it runs under, also when a checkpointed block is recomputed."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from peft.tuners.tuners_utils import BaseTunerLayer
from torch import nn
from torch.utils.checkpoint import checkpoint

TUNED, CONSISTENCY = "tuned", "consistency"


class Views:
    """Which adapter the network runs under. Flags only: peft's own switches also change requires_grad, and lose gradients."""

    def __init__(self, network: nn.Module) -> None:
        self.layers = [m for m in network.modules() if isinstance(m, BaseTunerLayer)]

    @contextmanager
    def use(self, view: str | None) -> Iterator[None]:
        """Run under adapter `view`; None is the bare network."""
        before = self._flags()
        self._set([(view is None, active if view is None else [view], scale) for _, active, scale in before])
        try:
            yield
        finally:
            self._set(before)

    @contextmanager
    def scaling(self, scale: float) -> Iterator[None]:
        """Multiply the trained adapter's contribution."""
        before = self._flags()
        self._set([(disabled, active, scale * own) for disabled, active, own in before])
        try:
            yield
        finally:
            self._set(before)

    def checkpointed(self, block: Callable[..., Any], *args: Any) -> Any:
        """torch's checkpoint, which re-enters in backward the view that was active in forward (huggingface/peft#2832)."""
        flags = self._flags()

        def run(*inputs: Any) -> Any:
            current = self._flags()
            self._set(flags)
            try:
                return block(*inputs)
            finally:
                self._set(current)

        return checkpoint(run, *args, use_reentrant=False)

    def _flags(self) -> list[tuple[bool, list[str], float]]:
        return [(layer._disable_adapters, layer._active_adapter, layer.scaling[TUNED]) for layer in self.layers]

    def _set(self, flags: list[tuple[bool, list[str], float]]) -> None:
        for layer, (disabled, active, scale) in zip(self.layers, flags, strict=True):
            layer._disable_adapters, layer._active_adapter, layer.scaling[TUNED] = disabled, active, scale
