"""Builds policies from the tiny folders of `model_checkpoints`, with the arguments that tests do not vary."""

from pathlib import Path
from typing import Any

from rdt.models import flux, sd3, sd15, sdxl
from rdt.policy import Adapter, Policy, Setup
from worlds.model_checkpoints import SIDE

OWN: dict[str, tuple[Any, dict[str, Any]]] = {
    "sd15": (sd15.build, {"consistency": None}),
    "sdxl": (sdxl.build, {"consistency": None}),
    "sd3": (sd3.build, {"sampler": "sde", "grid": "published", "tokens": 24}),
    "flux": (flux.build, {"sampler": "sde", "tokens": 24, "guidance": 3.5}),
}


def built(name: str, folder: Path, adapter: Adapter, setup: dict[str, Any] | None = None, **changes: Any) -> Policy:
    """Return the model's policy; `changes` replaces arguments of its builder."""
    builder, own = OWN[name]
    chosen = Setup(**{"resolution": SIDE} | (setup or {}))
    return builder(source=str(folder), adapter=adapter, setup=chosen, **{"checkpointing": False} | own | changes)
