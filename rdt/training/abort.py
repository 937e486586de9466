"""How a run ends before it is done: SIGTERM and exhausted memory become one line that says what to do next."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from rdt.errors import Terminated, UsageError
from rdt.training import folder


@contextmanager
def stop_on_sigterm(out: Path) -> Iterator[None]:
    """Raise Terminated on SIGTERM. Inside the training loop the `Checkpoints` callback handles it instead."""

    def stop(*_: Any) -> None:
        raise Terminated(f"stopped by SIGTERM; newest checkpoint: {folder.newest_checkpoint(out) or 'none'}")

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def explain_out_of_memory() -> Iterator[None]:
    """Turn an out-of-memory error into one line that says how to use less."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        exhausted = isinstance(error, MemoryError | torch.OutOfMemoryError) or "DefaultCPUAllocator" in str(error)
        if not exhausted:
            raise
        raise UsageError(
            f"not enough memory: {str(error).splitlines()[0][:160]}; lower micro_batch_size or"
            " evaluation.batch_size, or set precision=bf16, model.policy.checkpointing=true or"
            " model.policy.setup.slicing=true"
        ) from None
