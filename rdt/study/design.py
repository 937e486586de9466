"""Chooses the pairs that raters compare: every two settings equally often, over all prompts, equally often per side."""

import hashlib
import random
from collections import defaultdict
from dataclasses import dataclass
from itertools import chain, combinations, zip_longest

from rdt.study.sources import SampleGrid, Setting

DEFAULT_PAIRS = 60
CURE = "evaluation.grid=[rows,columns] of a run records more"


@dataclass(frozen=True)
class Options:
    """Holds the numbers that the command line gives a study."""

    pairs: int | None  # None: 60, or fewer if the grids hold fewer
    size: int  # images per side
    seed: int


@dataclass(frozen=True)
class Side:
    """Holds images of one prompt under one setting: neighbours in one row of its grid."""

    setting: str
    grid: SampleGrid
    row: int
    columns: range

    @property
    def noise(self) -> tuple:
        """Identify the noise of the images: sides with equal results started from the same latents."""
        return *self.grid.noise(self.row), self.columns


@dataclass(frozen=True)
class SidePair:
    """Shows two settings side by side for one prompt."""

    prompt: str
    left: Side
    right: Side


def designed(settings: list[Setting], options: Options) -> list[SidePair]:
    """Return the pairs in the order in which they are shown; ValueError if there are too many or too few."""
    rng = random.Random(secret(settings, options))
    stocks = [_stock(a, b, options.size, rng) for a, b in combinations(settings, 2)]
    count = _count(settings, stocks, options)
    rng.shuffle(stocks)  # the first ones take one pair more if the count does not divide
    quotas = [count // len(stocks) + (k < count % len(stocks)) for k in range(len(stocks))]
    pairs = [pair for stock, quota in zip(stocks, quotas, strict=True) for pair in _sided(stock[:quota], rng)]
    rng.shuffle(pairs)
    return pairs


def secret(settings: list[Setting], options: Options) -> str:
    """Return the seed of all shuffling, the same for the same runs and options.

    It depends on scores and pictures that the page does not hold, so it cannot be recovered from the page alone.
    """
    digest = hashlib.sha256(repr((options.pairs, options.size, options.seed)).encode())
    for setting in settings:
        for seed, grid in sorted(setting.grids.items()):
            digest.update(repr((setting.name, seed, grid.point.scores, grid.point.per_prompt)).encode())
            digest.update(grid.path.read_bytes())
    return digest.hexdigest()


def _stock(a: Setting, b: Setting, size: int, rng: random.Random) -> list[tuple[Side, Side]]:
    """Return all sides that two settings can show for the same prompt, shuffled, one prompt after the other in turn."""
    by_prompt = defaultdict(list)
    for ours, theirs in _matched(a.grids, b.grids):
        rows = {prompt: row for row, prompt in enumerate(theirs.prompts)}
        for row, prompt in enumerate(ours.prompts):
            for first in range(0, min(ours.columns, theirs.columns) - size + 1, size) if prompt in rows else ():
                columns = range(first, first + size)
                sides = Side(a.name, ours, row, columns), Side(b.name, theirs, rows[prompt], columns)
                by_prompt[prompt].append(sides)
    turns = list(by_prompt.values())
    for stock in turns:
        rng.shuffle(stock)
    rng.shuffle(turns)
    return [sides for sides in chain(*zip_longest(*turns)) if sides is not None]


def _matched(ours: dict[int, SampleGrid], theirs: dict[int, SampleGrid]) -> list[tuple[SampleGrid, SampleGrid]]:
    """Return pairs of grids of equal seed; without a common seed, the order of their seeds pairs them."""
    shared = sorted(ours.keys() & theirs.keys())
    if shared:
        return [(ours[seed], theirs[seed]) for seed in shared]
    return [(ours[a], theirs[b]) for a, b in zip(sorted(ours), sorted(theirs), strict=False)]


def _count(settings: list[Setting], stocks: list[list], options: Options) -> int:
    """Return how many pairs to show; ValueError if that is more than possible or fewer than the pairs of settings."""
    least, names = min(map(len, stocks)), ", ".join(setting.name for setting in settings)
    possible = least * len(stocks)
    images = f"{options.size} image{'s' * (options.size > 1)} a side"
    if not possible:
        raise ValueError(f"set={options.size}: two of {names} have no prompt in common with {images}; {CURE}")
    count = min(DEFAULT_PAIRS, possible) if options.pairs is None else options.pairs
    if count > possible:
        raise ValueError(
            f"pairs={count} is more than the {possible} that are possible with {images}, {least} for each two of"
            f" {names}; {CURE}"
        )
    if count < len(stocks):
        raise ValueError(
            f"pairs={count} leaves some of the {len(stocks)} pairs of settings out; choose settings= of {names},"
            f" or take pairs={len(stocks)}"
        )
    return count


def _sided(stock: list[tuple[Side, Side]], rng: random.Random) -> list[SidePair]:
    """Put the first setting on the left in half of the pairs, chosen at random, and on the right in the others."""
    turned = [k % 2 for k in range(len(stock))]
    first = rng.randrange(2)  # decides which setting is left once more if the number is odd
    rng.shuffle(turned)
    return [
        SidePair(a.grid.prompts[a.row], *((b, a) if (turn + first) % 2 else (a, b)))
        for (a, b), turn in zip(stock, turned, strict=True)
    ]
