"""Writes checkpoints as a run seals them, without a run."""

import torch

from rdt.training import digests
from worlds.smallest_run import minimal


def checkpoint(out, name, iteration=None, **identity):
    """Write a checkpoint of one weight into a run's folder, and return it."""
    made = out / "checkpoints" / name
    made.mkdir(parents=True)
    torch.save({"weight": torch.ones(3)}, made / digests.STATE)
    (made / digests.METRICS).write_text("iteration\n0\n")
    known = digests.identity(minimal(out)) | identity
    digests.seal(made, int(name[:6]) if iteration is None else iteration, known)
    return made
