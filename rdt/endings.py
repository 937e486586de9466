"""How a run ends before it is done: told to stop, or out of memory, in one line about what to do."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from rdt import folder
from rdt.errors import Terminated, UsageError


@contextmanager
def stoppable(out: Path) -> Iterator[None]:
    """SIGTERM outside the training loop, which has a handler of its own, ends the run with a line."""

    def stop(*_: Any) -> None:
        saved = folder.checkpoints(out)
        raise Terminated(f"stopped by SIGTERM; newest checkpoint: {saved[-1] if saved else 'none'}")

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def roomy() -> Iterator[None]:
    """Memory that ran out is one line about what saves some."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        lacking = isinstance(error, MemoryError | torch.OutOfMemoryError) or "DefaultCPUAllocator" in str(error)
        if not lacking:
            raise
        raise UsageError(
            f"not enough memory: {str(error).splitlines()[0][:160]}; lower micro_batch_size or"
            " evaluation.batch_size, or set precision=bf16, model.policy.checkpointing=true or"
            " model.policy.setup.slicing=true"
        ) from None
