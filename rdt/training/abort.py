"""How a run ends before it is done: signals, exhausted memory and a full disk become one line that says what to do."""

import errno
import shutil
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from rdt.errors import Terminated, UsageError
from rdt.training import folder

SIGNALS = (signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1)  # a scheduler's time limit, a lost terminal, its warning
FULL = (errno.ENOSPC, errno.EDQUOT)
FULL_WORDS = (  # in errors that are no OSError, of safetensors and torch
    "No space left on device", "Disk quota exceeded", "file write failed", "failed writing file", "unexpected pos",
)  # fmt: skip


@contextmanager
def stop_on_signals(out: Path) -> Iterator[None]:
    """Raise Terminated on any of SIGNALS. Inside the training loop the `Checkpoints` callback handles them instead."""

    def stop(number: int, _: Any) -> None:
        newest = folder.newest_checkpoint(out) or "none"
        raise Terminated(f"stopped by {signal.Signals(number).name}; newest checkpoint: {newest}")

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, stop) for number in SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def explain_full_disk(out: Path) -> Iterator[None]:
    """Turn the errors of a full disk into one line with the folder and what to do."""
    try:
        yield
    except Exception as error:  # safetensors and torch have types of their own
        full = isinstance(error, OSError) and error.errno in FULL
        if not full and not any(words in str(error) for words in FULL_WORDS):
            raise
        raise UsageError(_full_disk(out)) from None


def _full_disk(out: Path) -> str:
    """Return the line about a full disk."""
    newest = folder.newest_checkpoint(out)
    wanted = sum(file.stat().st_size for file in newest.iterdir()) if newest else 0
    size = f" (a checkpoint takes {wanted / 1e6:.3g} MB)" if newest else ""
    free = f"{shutil.disk_usage(out).free / 1e6:.3g} MB free" if out.is_dir() else "it could not be made"
    return (
        f"output_dir={out}: no space is left on its disk, {free}{size}; make room and start again with the same"
        f" output_dir to continue; newest checkpoint: {newest or 'none'}"
    )


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
