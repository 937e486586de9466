"""Silences libraries that print about themselves, for training, evaluation, sampling and benchmarks."""

import logging
import warnings

import diffusers
import transformers


def silence_libraries() -> None:
    """Turn off the logs, warnings and progress bars of libraries; errors are still raised."""
    transformers.logging.set_verbosity(logging.CRITICAL)
    transformers.logging.disable_progress_bar()
    diffusers.logging.set_verbosity(logging.CRITICAL)
    diffusers.logging.disable_progress_bar()
    for name in ("lightning.pytorch", "lightning.fabric", "lightning.pytorch.utilities.rank_zero"):
        logging.getLogger(name).setLevel(logging.ERROR)
    for module in ("lightning", "peft", "diffusers", "transformers", "torchmetrics"):
        warnings.filterwarnings("ignore", module=module)
