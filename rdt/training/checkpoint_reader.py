"""Reads checkpoints for Lightning without running code in them; what is wrong with one is one line."""

from collections.abc import Mapping
from typing import Any

import torch
from lightning.fabric.plugins import TorchCheckpointIO

from rdt.errors import UsageError
from rdt.weights import first_line

NEEDED = {"state_dict", "loops", "optimizer_states", "progress"}  # the parts that every checkpoint of a run has


class CheckpointReader(TorchCheckpointIO):
    """Refuses a file that is no checkpoint of a run with these trained weights."""

    def __init__(self, trained: Mapping[str, torch.Size]) -> None:
        self.trained = dict(trained)

    def load_checkpoint(self, path: Any, *_: Any, **__: Any) -> dict[str, Any]:
        """Return the checkpoint in a file, on the host; UsageError, naming the file, if it cannot be used."""
        try:
            found = torch.load(path, map_location="cpu", weights_only=True)
        except Exception as error:  # an unpickler raises errors of any type on a broken file
            raise UsageError(f"{path} is not a readable checkpoint: {first_line(error)}") from None
        if not isinstance(found, dict) or not found.keys() >= NEEDED:
            raise UsageError(f"{path} is not a checkpoint of a run: {', '.join(sorted(NEEDED))} are expected in it")
        shapes = {name: getattr(value, "shape", None) for name, value in found["state_dict"].items()}
        if shapes != self.trained:
            raise UsageError(f"{path} is a checkpoint of another adapter: the names or shapes of its weights differ")
        return found
