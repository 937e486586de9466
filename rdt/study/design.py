"""Which pictures meet: every two settings equally often, over all prompts, each as often left as right."""

import hashlib
import random
from collections import defaultdict
from dataclasses import dataclass
from itertools import chain, combinations, zip_longest

from rdt.study.sources import Grid, Setting

USUAL = 60


@dataclass(frozen=True)
class Order:
    """What was asked for."""

    pairs: int | None  # None: 60, or as many as there are
    size: int  # images a side
    seed: int


@dataclass(frozen=True)
class Side:
    """Images of one prompt under one setting: a row of its grid, next to each other."""

    setting: str
    grid: Grid
    row: int
    columns: range

    @property
    def noise(self) -> tuple:
        """Equal where the images began from the same noise."""
        return *self.grid.noise(self.row), self.columns


@dataclass(frozen=True)
class Pair:
    """Two settings side by side for one prompt."""

    prompt: str
    left: Side
    right: Side


def designed(settings: list[Setting], order: Order) -> list[Pair]:
    """The pairs in the order in which they are shown; ValueError where so many cannot be made."""
    rng = random.Random(secret(settings, order))
    stocks = [_stock(a, b, order.size, rng) for a, b in combinations(settings, 2)]
    count = _count(settings, stocks, order)
    rng.shuffle(stocks)  # whichever come first take what is left over
    quotas = [count // len(stocks) + (k < count % len(stocks)) for k in range(len(stocks))]
    pairs = [pair for stock, quota in zip(stocks, quotas, strict=True) for pair in _sided(stock[:quota], rng)]
    rng.shuffle(pairs)
    return pairs


def secret(settings: list[Setting], order: Order) -> str:
    """What all chance comes from: the same for the same runs and order, out of reach for who has the page alone."""
    digest = hashlib.sha256(repr(order).encode())
    for setting in settings:
        for seed, grid in sorted(setting.grids.items()):
            digest.update(repr((setting.name, seed, grid.point.scores, grid.point.per_prompt)).encode())
            digest.update(grid.path.read_bytes())
    return digest.hexdigest()


def _stock(a: Setting, b: Setting, size: int, rng: random.Random) -> list[tuple[Side, Side]]:
    """All that two settings have for each other, in chance order, the prompts in turn."""
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


def _matched(ours: dict[int, Grid], theirs: dict[int, Grid]) -> list[tuple[Grid, Grid]]:
    """Runs of equal seed; where there is none, in order of their seeds."""
    shared = sorted(ours.keys() & theirs.keys())
    if shared:
        return [(ours[seed], theirs[seed]) for seed in shared]
    return [(ours[a], theirs[b]) for a, b in zip(sorted(ours), sorted(theirs), strict=False)]


def _count(settings: list[Setting], stocks: list[list], order: Order) -> int:
    """How many pairs to show; ValueError, with what is possible, where that is too many or too few."""
    least, names = min(map(len, stocks)), ", ".join(setting.name for setting in settings)
    possible = least * len(stocks)
    images = f"{order.size} image{'s' * (order.size > 1)} a side"
    if not possible:
        raise ValueError(f"set={order.size}: two of {names} have no prompt in common with {images} of it; {MORE}")
    count = min(USUAL, possible) if order.pairs is None else order.pairs
    if count > possible:
        raise ValueError(
            f"pairs={count} is more than the {possible} that are possible with {images}, {least} for each two of"
            f" {names}; {MORE}"
        )
    if count < len(stocks):
        raise ValueError(
            f"pairs={count} leaves some of the {len(stocks)} pairs of settings out; choose settings= of {names}"
        )
    return count


MORE = "evaluation.grid=[rows,columns] of a run records more"


def _sided(stock: list[tuple[Side, Side]], rng: random.Random) -> list[Pair]:
    """Half of them the other way round."""
    turned = [k % 2 for k in range(len(stock))]
    first = rng.randrange(2)  # who is left once more where their number is odd
    rng.shuffle(turned)
    return [
        Pair(a.grid.prompts[a.row], *((b, a) if (turn + first) % 2 else (a, b)))
        for (a, b), turn in zip(stock, turned, strict=True)
    ]
