"""95% intervals of means over problems, and a test of paired changes (2411.00640: pair by problem, resample problems).

Wilson for shares with one response per problem. Otherwise the percentile bootstrap over problems, which has nothing to
resample when a share is 0 for all problems, or 1 for all: then Wilson with the number of problems, which is wider.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import NormalDist
from typing import Literal

import numpy as np

Z = NormalDist().inv_cdf(0.975)
RESAMPLES = 5000
SEED = 20250319

Interval = Literal["wilson", "bootstrap", "none"]
"""how an interval was found; `none`: a single problem has no spread"""


def wilson(successes: float, n: int) -> tuple[float, float]:
    """Wilson's interval of a share: (p + z^2/2n -+ z sqrt(p(1-p)/n + z^2/4n^2)) / (1 + z^2/n)."""
    p = successes / n
    middle = p + Z * Z / (2 * n)
    half = Z * math.sqrt(p * (1 - p) / n + Z * Z / (4 * n * n))
    scale = 1 + Z * Z / n
    return max(0.0, (middle - half) / scale), min(1.0, (middle + half) / scale)


def bootstrap(values: Sequence[float]) -> tuple[float, float]:
    """Percentile bootstrap interval of the mean, seeded: the same values give the same interval."""
    rng = np.random.default_rng(SEED)
    array = np.asarray(values, dtype=np.float64)
    rows = max(1, 200_000 // len(array))  # few enough indices at once for the cache
    sizes = [min(rows, RESAMPLES - start) for start in range(0, RESAMPLES, rows)]
    means = np.concatenate([array[rng.integers(len(array), size=(size, len(array)))].mean(axis=1) for size in sizes])
    low, high = np.quantile(means, [0.025, 0.975])
    return float(low), float(high)


def change_p(changes: Sequence[float]) -> float:
    """Two-sided p-value of "nothing changed" for paired changes: then each had the other sign as likely.

    Changes of one size only (one response per problem): the binomial test over those that are not 0, which is McNemar's
    exact test. Otherwise the sign-flip test with seeded random signs, (1 + as extreme) / (1 + drawn).
    """
    moved = [change for change in changes if change]
    if not moved:
        return 1.0
    if len({abs(change) for change in moved}) == 1:
        from scipy.special import bdtr  # a tenth of scipy.stats, which takes a second

        fewer = min(up := sum(change > 0 for change in moved), len(moved) - up)
        return min(1.0, 2.0 * float(bdtr(fewer, len(moved), 0.5)))
    rng = np.random.default_rng(SEED)
    array = np.asarray(moved, dtype=np.float64)
    observed = abs(array.sum()) * (1 - 1e-12)  # rounding must not make an equal sum a smaller one
    rows = max(1, 200_000 // len(array))
    sizes = [min(rows, RESAMPLES - start) for start in range(0, RESAMPLES, rows)]
    drawn = (rng.integers(2, size=(size, len(array))) * 2 - 1 for size in sizes)
    extreme = sum(int((abs(signs @ array) >= observed).sum()) for signs in drawn)
    return (1 + extreme) / (1 + RESAMPLES)


def holm(ps: Sequence[float]) -> list[float]:
    """The p-values of several comparisons with Holm's correction (1979): the smallest times their number, the next one
    times one less, and so on, none below a smaller one. The chance that any of those below 0.05 is a false alarm is
    below 0.05, whatever the comparisons have to do with each other.

    >>> holm([0.01, 0.04, 0.03])
    [0.03, 0.06, 0.06]
    """
    corrected = list(ps)
    least = 0.0
    for rank, at in enumerate(sorted(range(len(ps)), key=lambda at: ps[at])):
        least = max(least, min(1.0, (len(ps) - rank) * ps[at]))
        corrected[at] = least
    return corrected


def mean_interval(values: Sequence[float], share: bool, samples: int) -> tuple[float | None, float | None, Interval]:
    """Interval of the mean over problems. `share`: the values are shares of `samples` responses each."""
    if share and (samples == 1 or set(values) in ({0.0}, {1.0})):
        return *wilson(sum(values), len(values)), "wilson"
    if len(values) == 1:
        return None, None, "none"
    return *bootstrap(values), "bootstrap"


def change_interval(changes: Sequence[float], share: bool) -> tuple[float | None, float | None, Interval]:
    """Interval of the mean paired change. Where no problem's share changed: Wilson's bound on the share that could."""
    if share and not any(changes):
        bound = wilson(0, len(changes))[1]
        return -bound, bound, "wilson"
    if len(changes) == 1:
        return None, None, "none"
    return *bootstrap(changes), "bootstrap"
