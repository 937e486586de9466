"""What happens to scores that are not finite: they stop the run, unless the reward may leave images out.

A scorer may have no score for an image, which is NaN here. `reward.missing` chooses what follows:
    stop    one line names the reward, the prompt and the image;
    skip    evaluation takes the mean over the prompt's other images; in training the image stands at the mean of the
            prompt's other images (of all images of the iteration if there are none) and its advantage is exactly 0, so
            that it adds nothing to the gradient of the reward. Both count such images. An image without any other
            beside it, as a prompt in evaluation or a whole iteration whose images all lack scores, stops the run.
An infinite score stops the run under both.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from rdt.errors import Diverged
from rdt.rewards.contract import shown_prompts

MISSING = ("stop", "skip")


@dataclass(frozen=True)
class Scored:
    """Holds scores (N,) or (N, R) of N images, equally many for each prompt in their order, and whose they are."""

    reward: str  # as messages name it
    missing: str  # Reward.missing
    scores: Tensor
    prompts: Sequence[str]

    def check_finite(self, when: str = "") -> None:
        """Raise Diverged, naming reward, prompt and image, if a score is not finite and may not be skipped."""
        rows = self.scores.detach().reshape(len(self.scores), -1)
        wrong = ~rows.isfinite().all(1) if self.missing != "skip" else rows.isinf().any(1)
        if wrong.any():
            raise Diverged(f"{when}{self._line(rows, int(wrong.nonzero()[0, 0]))}")

    def check_present(self, when: str = "") -> Tensor:
        """Return which images (N,) lack a score; Diverged if all do, or if a score may not be skipped."""
        self.check_finite(when)
        absent = self.scores.isnan().reshape(len(self.scores), -1).any(1)
        if len(absent) and absent.all():
            raise Diverged(f"{when}{self.reward} has no score for any of {self._images()}")
        return absent

    def _line(self, rows: Tensor, row: int) -> str:
        """Return what is wrong with an image's score."""
        value = next(value for value in rows[row].tolist() if value - value != 0)
        every = [prompt for prompt in self.prompts for _ in range(len(rows) // len(self.prompts))]
        image = every[:row].count(every[row])  # among those of its prompt, counted from 0
        advice = "; reward.missing=skip leaves such images out" if self.missing == "stop" and value != value else ""
        return f"{self.reward} scored image {image} of the prompt {every[row]!r} as {value}{advice}"

    def _images(self) -> str:
        return shown_prompts([prompt for prompt in self.prompts for _ in range(len(self.scores) // len(self.prompts))])


def stand_ins(parts: Tensor) -> tuple[Tensor, Tensor]:
    """Return parts (P, G, R) with each image without a score at its prompt's mean, and which those are, (P, G)."""
    absent = parts.isnan().any(-1)
    if not absent.any():
        return parts, absent
    known = parts.masked_fill(absent[..., None], torch.nan)
    means = known.nanmean(1, keepdim=True)
    means = torch.where(means.isnan(), known.flatten(0, 1).nanmean(0), means)
    return torch.where(absent[..., None], means, parts), absent


def without_absent(advantages: Tensor, absent: Tensor) -> Tensor:
    """Return advantages (P, K) or (P, K, T) with those of the images (P, K) that lack a score set to 0."""
    return advantages.masked_fill(absent.reshape(*absent.shape, *[1] * (advantages.ndim - 2)), 0)
