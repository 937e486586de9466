"""How often one of two is preferred, how surely, and how far raters agree."""

import math
from collections import Counter
from collections.abc import Iterable, Sequence

from rdt.pareto import Interval, bootstrap_mean

Z = 1.959963984540054  # of the normal distribution's 97.5 %


def wilson(wins: float, votes: int) -> Interval:
    """Share of wins among independent votes and its 95 % score interval (Wilson 1927); a tie is half a win."""
    share, spread = wins / votes, Z * Z / votes
    middle = (share + spread / 2) / (1 + spread)
    half = Z * math.sqrt(share * (1 - share) / votes + spread / votes / 4) / (1 + spread)
    return Interval(share, max(0.0, middle - half), min(1.0, middle + half))


def over_raters(wins: Sequence[float], votes: Sequence[int], seed: int = 0) -> Interval | None:
    """The same share with the 95 % bootstrap interval over raters, per rater wins of votes; None for a single rater.

    The ratio of sums is linearised, so that a rater weighs as much as his votes.
    """
    if len(votes) < 2:
        return None
    share, each = sum(wins) / sum(votes), sum(votes) / len(votes)
    values = [share + (w - share * n) / each for w, n in zip(wins, votes, strict=True)]
    found = bootstrap_mean(values, seed)
    return Interval(share, max(0.0, found.lo), min(1.0, found.hi))


def alpha(units: Iterable[Sequence[str]]) -> float:
    """Krippendorff's alpha of nominal answers, one unit per thing that was judged; 1 agreement, 0 chance.

    nan where nothing was judged twice, or where every answer is the same. Krippendorff 2011, Computing Krippendorff's
    Alpha-Reliability; with n_c answers c among n in units judged twice or more, and m_u in unit u,
    alpha = 1 - (n - 1) sum_u (m_u^2 - sum_c n_uc^2) / (m_u - 1) / (n^2 - sum_c n_c^2).
    """
    judged = [Counter(unit) for unit in units if len(unit) > 1]
    total = sum(judged, Counter[str]())
    n, chance = total.total(), total.total() ** 2 - _squares(total)
    if not chance:
        return math.nan
    apart = sum((unit.total() ** 2 - _squares(unit)) / (unit.total() - 1) for unit in judged)
    return 1 - (n - 1) * apart / chance


def _squares(counts: Counter[str]) -> int:
    return sum(count * count for count in counts.values())
