"""What an evaluation notes of one denoiser, prompt by prompt, each rank its share."""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from rdt.fidelity import Overall
from rdt.per_prompt import Features, PerPrompt


@dataclass(frozen=True)
class Tally:
    """Numbers, features and a few images; no more of the images is kept."""

    table: PerPrompt
    seen: tuple[Features, ...]  # one per measure of all images
    grid: list[Tensor] = field(default_factory=list)

    @staticmethod
    def empty(overall: int, device: torch.device) -> "Tally":
        """Before the first prompt, with room for the features of so many measures."""
        return Tally(PerPrompt().to(device), tuple(Features().to(device) for _ in range(overall)))

    def note(self, index: int, values: Mapping[str, float], features: list[Tensor]) -> None:
        """One prompt's values, and per measure the features (n, D) of its images."""
        self.table.update(index, values)
        for kept, new in zip(self.seen, features, strict=True):
            kept.update(index, new)

    def scores(self) -> dict[str, Tensor]:
        """By name (P,); a collective."""
        return {name: values.view(-1).cpu() for name, values in self.table.compute().items()}  # (1,) comes as ()

    def features(self) -> list[Tensor]:
        """Per measure (P n, D); a collective."""
        return [kept.compute() for kept in self.seen]


def totals(
    overall: Iterable[Overall], tallies: Mapping[str, Tally], bases: Collection[str]
) -> dict[str, dict[str, float]]:
    """By denoiser, what is measured of all images together, beside the base's where it is another; a collective."""
    seen = {name: tally.features() for name, tally in tallies.items()}
    measured: dict[str, dict[str, float]] = {name: {} for name in seen}
    for k, measure in enumerate(overall):
        for name in seen:
            measured[name] |= measure(seen[name][k], None if name in bases else seen[min(bases)][k])
    return measured
