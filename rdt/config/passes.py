"""How many network passes an evaluation takes, foreseen from its config.

The base and every point of a curve start from the same noise, and the base's last output of each step is remembered
(`rdt.guidance.remembered`). So steps at which a point is still the base cost nothing, in its rollout and in its KL, and
best-of-N continues with the candidates of the point before it. Tuned outputs are not shared: two points whose states
differ once differ at every later step. Base and tuned are taken to run as a pair where both are needed, as they do on a
GPU and in small batches; one after the other they take one pass less at the first such step.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from rdt.annealing import schedule_of, weights


@dataclass
class Memory:
    """Holds what is remembered: the base's outputs, and the candidates of the last best-of-N."""

    outputs: dict[tuple[int, int], object] = field(default_factory=dict)  # by step and rows: their state
    drawn: tuple[int, int] = (-1, 0)  # the batch and how many candidates


@dataclass(frozen=True)
class CurvePoint:
    """Describes a point of a curve by the weight of the tuned output at each step; the base has weight 0 throughout."""

    weights: Sequence[float]
    label: str = ""  # of points that are no mixture of base and tuned
    rows: int | None = None  # network rows of a sample; None: the run's
    candidates: int = 0  # of best-of-N, all of the base
    particles: int = 0  # of sequential Monte Carlo, for each image that is kept; 0: none

    def state(self, i: int) -> object:
        """Return what identifies the state before step i."""
        before = tuple(self.weights[:i])
        return (i, self.label, before) if any(before) else i


@dataclass(frozen=True)
class Evaluated:
    """Holds what is evaluated: the same numbers as `rdt.evaluation.Protocol`, and the sampler's."""

    prompts: int
    images: int  # per prompt
    kl_images: int  # per prompt; 0 if the sampler draws nothing
    batch_size: int
    num_steps: int
    rows: int  # network rows of a sample

    def passes(self, points: Sequence[CurvePoint]) -> int:
        """Return the passes of the base and then of every point."""
        size = max(1, self.batch_size // self.images)  # prompts of a chunk
        whole, rest = divmod(self.prompts, size)
        return whole * self._chunk(size, points) + (self._chunk(rest, points) if rest else 0)

    def _chunk(self, prompts: int, points: Sequence[CurvePoint]) -> int:
        """Return the passes for a chunk of prompts, which is sampled in batches, point by point."""
        samples = range(prompts * self.images)
        batches = [samples[k : k + self.batch_size] for k in range(0, len(samples), self.batch_size)]
        memory, base = Memory(), CurvePoint((0.0,) * self.num_steps)
        total = 0
        for point in (base, *points):
            for k, batch in enumerate(batches):
                few = sum(row % self.images < self.kl_images for row in batch) if point is not base else 0
                total += self._batch(_Batch(k, memory), point, len(batch), few)
        return total

    def _batch(self, batch: "_Batch", point: CurvePoint, count: int, few: int) -> int:
        """Return the passes for a batch of samples, the KL of `few` of them included."""
        if point.particles:
            return self.rows * count * point.particles * self.num_steps
        if point.candidates:
            return self.rows * count * batch.chosen(point.candidates, count, self.num_steps)
        own = point.rows or self.rows
        return own * count * batch.sampled(point, count) + few * batch.compared(point, few, own, self.rows)


@dataclass(frozen=True)
class _Batch:
    """Counts the steps that one batch of samples runs, given what is remembered."""

    number: int
    memory: Memory = field(repr=False)

    def sampled(self, point: CurvePoint, rows: int) -> int:
        """Return the passes per row of a rollout."""
        return sum(self._step(point, i, rows) for i in range(len(point.weights)))

    def compared(self, point: CurvePoint, rows: int, own: int, base: int) -> int:
        """Return the passes per sample of a KL: the base and then the point at each of its states."""
        steps = range(len(point.weights))
        return sum(base * self._base(point.state(i), i, rows) + own * self._step(point, i, rows) for i in steps)

    def chosen(self, candidates: int, rows: int, num_steps: int) -> int:
        """Return the passes per row of best-of-N, which continues with fewer candidates of the same batch."""
        number, before = self.memory.drawn
        first = before if number == self.number and before < candidates else 0
        if candidates > 1:  # a single candidate is not scored
            self.memory.drawn = (self.number, candidates)
        labels = [f"candidate {k}" if k else "" for k in range(first, candidates)]
        return sum(self.based(label, rows, num_steps) for label in labels)

    def based(self, label: str, rows: int, num_steps: int) -> int:
        """Return the passes per row of a rollout of the base from other noise, or from the evaluation's own."""
        return sum(self._base((i, label) if label else i, i, rows) for i in range(num_steps))

    def _step(self, point: CurvePoint, i: int, rows: int) -> int:
        if point.weights[i] == 0:
            return self._base(point.state(i), i, rows)
        return 1 if point.weights[i] == 1 else 2

    def _base(self, state: object, i: int, rows: int) -> int:
        """Return 0 if the base's output at this state is remembered, and otherwise 1."""
        known = self.memory.outputs.get((i, rows)) == (self.number, state)
        self.memory.outputs[i, rows] = (self.number, state)
        return int(not known)


def annealed_point(arguments: Mapping[str, Any], num_steps: int) -> CurvePoint:
    """Return a point of guidance=aig."""
    chosen = {key: arguments[key] for key in ("power", "fraction", "constant")}
    return CurvePoint(weights(schedule_of(arguments["schedule"], **chosen)[0], num_steps))


def scaled_point(arguments: Mapping[str, Any], num_steps: int) -> CurvePoint:
    """Return a point of guidance=lora_scale."""
    scale = float(arguments["scale"])
    return CurvePoint((float(scale != 0),) * num_steps, f"scale {scale}")


def rescaled_point(arguments: Mapping[str, Any], num_steps: int) -> CurvePoint:
    """Return a point of guidance=cfg, whose scale may be another one than the run's."""
    scale = arguments["scale"]
    return CurvePoint((1.0,) * num_steps, f"cfg {scale}", None if scale is None else 1 if scale == 1 else 2)


def chosen_point(arguments: Mapping[str, Any], num_steps: int) -> CurvePoint:
    """Return a point of guidance=best_of; without a reward (alpha=null) it is the base's own sample."""
    return CurvePoint((), candidates=1 if arguments["alpha"] is None else int(arguments["candidates"]))


def particles_point(arguments: Mapping[str, Any], num_steps: int) -> CurvePoint:
    """Return a point of guidance=das, which runs the base on each particle; without a reward, on one."""
    return CurvePoint((), particles=1 if arguments["alpha"] is None else int(arguments["candidates"]))


def tuned_point(arguments: Mapping[str, Any], num_steps: int) -> CurvePoint:
    """Return a point whose steps take one pass each."""
    return CurvePoint((1.0,) * num_steps, repr(sorted(arguments.items())))


KINDS: dict[str, Callable[[Mapping[str, Any], int], CurvePoint]] = {
    "annealed": annealed_point, "scaled": scaled_point, "rescaled": rescaled_point, "chosen": chosen_point,
    "particles": particles_point, "tuned": tuned_point,
}  # fmt: skip


def foreseen(curve: Sequence[Mapping[str, Any]], kind: str, num_steps: int) -> Iterator[CurvePoint]:
    """Yield the points of a curve, given the arguments of each and what the guidance's yaml states as `passes`."""
    return (KINDS[kind](arguments, num_steps) for arguments in curve)
