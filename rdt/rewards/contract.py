"""The contract of a reward's scores, which every call of a reward checks: what breaks it is one line with its key.

The checks read no values, so they do not wait for the device. `rdt.rewards.missing` says what happens to scores that
are not finite.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from rdt.errors import Diverged, Terminated, UsageError, flat

SHOWN = 3  # prompts in a message
LONGEST = 80  # characters of a prompt in a message


class RewardError(UsageError):
    """Says that a reward failed, or that what it returned are no scores."""


@contextmanager
def named_failure(reward: str, prompts: Sequence[str]) -> Iterator[None]:
    """Turn what a reward raises into a RewardError with the reward, the exception and the prompts.

    Errors that rdt raises itself, and exhausted memory, pass as they are.
    """
    try:
        yield
    except (UsageError, Diverged, Terminated, MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:
        if "DefaultCPUAllocator" in str(error):  # exhausted memory of the host, which torch gives no class of its own
            raise
        raise RewardError(
            f"{reward} raised {type(error).__name__}: {flat(error)}; it scored {shown_prompts(prompts)}"
            " (RDT_TRACEBACK=1 shows where)"
        ) from error


def check_scores(reward: str, scores: Any, images: Tensor, *, differentiable: bool) -> None:
    """Raise RewardError unless scores are a floating-point tensor (B,) on the images' device, with gradient if needed.

    They need one if the images have one and the reward says that it is differentiable.
    """
    difference = _difference(scores, images)
    if difference is None and differentiable and torch.is_grad_enabled() and images.requires_grad:
        difference = None if scores.requires_grad else DETACHED
    if difference is not None:
        found, advice = difference
        raise RewardError(
            f"{reward} returned {found}, expected a floating-point tensor of shape ({len(images)},) on"
            f" {images.device}, one score per image; {advice}"
        )


def shown_prompts(prompts: Sequence[str]) -> str:
    """Return the first prompts in words, and how many there are."""
    texts = ", ".join(
        repr(prompt if len(prompt) <= LONGEST else prompt[:LONGEST] + "...") for prompt in prompts[:SHOWN]
    )
    return f"{len(prompts)} images of the prompts {texts}{', ...' if len(prompts) > SHOWN else ''}"


DETACHED = (
    "scores without a gradient (detached)",
    "compute them from the images by operations of torch without detach() and no_grad(), or state differentiable ="
    " False in its class and take a method that needs no gradient: tilt, ddpo, grpo, drift",
)


def _difference(scores: Any, images: Tensor) -> tuple[str, str] | None:
    """Return what was found in place of scores, and what would make it right; None if nothing is wrong."""
    if not isinstance(scores, Tensor):
        kind = type(scores)
        name = kind.__name__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__name__}"
        return f"a value of type {name}", "return a torch.Tensor"
    if scores.shape != images.shape[:1]:
        squeezed = scores.ndim == 2 and scores.shape == (len(images), 1)
        return f"a tensor of shape {tuple(scores.shape)}", "add .squeeze(1)" if squeezed else "average over no images"
    if not scores.is_floating_point():
        return f"a tensor of {scores.dtype}", "add .float()"
    if scores.device != images.device:
        return f"a tensor on {scores.device}", "add .to(images.device)"
    return None
