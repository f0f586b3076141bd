"""Resampling of scores that are ratios of pooled counts: bootstrap and jackknife intervals, and paired sign flips.

The units that are drawn are images or groups of images. All methods are resampled together, with matrix products of
weights (resamples x units) and counts (units x methods). docs/statistics.md has the reasons and sources.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

FEW = 6
"""With fewer units flipping signs cannot get a p below 0.05, and intervals and tests are those of a t distribution."""

Interval = tuple[float, float]

_CHUNK = 4_000_000  # of resamples x units that are held at a time


# ---- ratios of counts


@dataclass(frozen=True)
class Ratios:
    """A score of a method: the mean over K of ratios of sums over units; a ratio of nothing to nothing is left out.

    Attributes:
        above, below: (seeds, units, K) float64.
    """

    above: np.ndarray
    below: np.ndarray

    @property
    def units(self) -> int:
        return self.above.shape[1]

    def scores(self) -> np.ndarray:
        """(seeds,), NaN where nothing is left."""
        return mean_ratio(self.above.sum(1), self.below.sum(1))

    def scores_of_units(self) -> np.ndarray:
        """(units,) the score of each unit alone, mean over the seeds; NaN where nothing is left."""
        return mean_of_seeds(mean_ratio(self.above, self.below).T, [len(self.above)])[:, 0]


def only_occupied(ratios: Sequence[Ratios]) -> list[Ratios]:
    """Without the units that have no pixel that counts for any method, as images in which a class does not occur."""
    used = np.any([(own.below > 0).any((0, 2)) for own in ratios], axis=0)
    return [Ratios(own.above[:, used], own.below[:, used]) for own in ratios]


def units_of(groups: Sequence[str] | None, images: int) -> np.ndarray:
    """(images,) the unit of each image, from 0: its group, or itself where it has none."""
    names = [("group", group) if group else ("image", i) for i, group in enumerate(groups or [""] * images)]
    numbers = {name: number for number, name in enumerate(dict.fromkeys(names))}
    return np.array([numbers[name] for name in names], np.intp)


def pool(counts: np.ndarray, unit_of: np.ndarray) -> np.ndarray:
    """(seeds, images, K) -> (seeds, units, K) float64, sums over the images of a unit."""
    units = int(unit_of.max(initial=-1)) + 1
    if len(unit_of) == units:
        return counts.astype(np.float64)
    pooled = np.zeros((counts.shape[0], units, counts.shape[2]))
    for own, sums in zip(counts, pooled, strict=True):
        np.add.at(sums, unit_of, own)
    return pooled


def mean_ratio(above: np.ndarray, below: np.ndarray) -> np.ndarray:
    """(..., K), (..., K) -> (...)"""
    with np.errstate(invalid="ignore"):
        return (above / np.where(below > 0, below, 1)).sum(-1) / (below > 0).sum(-1)


def mean_of_seeds(scores: np.ndarray, seeds: Sequence[int]) -> np.ndarray:
    """(..., seeds of all methods) -> (..., methods), over the seeds that have a score; NaN where none has."""
    known = ~np.isnan(scores)
    starts = np.cumsum([0, *seeds[:-1]])
    total = np.add.reduceat(np.where(known, scores, 0), starts, axis=-1)
    with np.errstate(invalid="ignore"):
        return total / np.add.reduceat(known.astype(np.float64), starts, axis=-1)


# ---- intervals


def bootstrap(
    ratios: Sequence[Ratios], best: int, resamples: int, level: float, rng: np.random.Generator
) -> list[tuple[Interval, Interval]]:
    """Of each method the interval of its mean score, and of the difference to the method ``best``.

    They are percentiles, at tails that undo that a bootstrap is too narrow by sqrt((n - 1) / n) and by the step from a
    normal to a t distribution (Hesterberg 2015, arXiv:1411.5279). A resample in which no class of the
    metric occurs is left out.
    """
    seeds = [len(own.above) for own in ratios]
    units = ratios[0].units
    means = mean_of_seeds(
        np.concatenate([_score(ratios, weights) for weights in _draws(ratios, resamples, rng)]), seeds
    )
    tail = stats.norm.cdf(np.sqrt(units / (units - 1)) * stats.t.ppf((1 - level) / 2, units - 1))
    low, high = np.nanquantile(means, (tail, 1 - tail), axis=0)
    lower, upper = np.nanquantile(means - means[:, [best]], (tail, 1 - tail), axis=0)
    return _paired(low, high, lower, upper)


def jackknife(ratios: Sequence[Ratios], best: int, level: float) -> list[tuple[Interval, Interval]]:
    """As ``bootstrap``, of few units: from the scores without each of them, and a t distribution; of one unit NaN."""
    seeds = [len(own.above) for own in ratios]
    units = ratios[0].units
    without = np.vstack([np.ones(units), 1 - np.eye(units)])
    means = mean_of_seeds(_score(ratios, without.astype(np.float32)), seeds)

    def ends(values: np.ndarray, bottom: float) -> tuple[np.ndarray, np.ndarray]:
        if units < 2:
            return np.full_like(values[0], np.nan), np.full_like(values[0], np.nan)
        error = np.sqrt((units - 1) / units * ((values[1:] - values[1:].mean(0)) ** 2).sum(0))
        half = stats.t.ppf((1 + level) / 2, units - 1) * error
        return np.clip(values[0] - half, bottom, 1), np.clip(values[0] + half, bottom, 1)

    return _paired(*ends(means, 0), *ends(means - means[:, [best]], -1))


def _paired(*columns: np.ndarray) -> list[tuple[Interval, Interval]]:
    rows = zip(*(column.tolist() for column in columns), strict=True)
    return [((low, high), (lower, upper)) for low, high, lower, upper in rows]


def _draws(ratios: Sequence[Ratios], resamples: int, rng: np.random.Generator) -> Iterator[np.ndarray]:
    """(up to a chunk, units) float32, how often each unit is drawn in each resample."""
    units = ratios[0].units
    chunk = max(1, _CHUNK // units)
    for start in range(0, resamples, chunk):
        rows = min(chunk, resamples - start)
        drawn = rng.integers(0, units, (rows, units)) + np.arange(rows)[:, None] * units
        yield np.bincount(drawn.ravel(), minlength=rows * units).reshape(rows, units).astype(np.float32)


def _score(ratios: Sequence[Ratios], weights: np.ndarray) -> np.ndarray:
    """(resamples, units) weights -> (resamples, seeds of all methods) scores of the pooled counts."""
    shape = (len(weights), sum(len(own.above) for own in ratios))
    total, present = np.zeros(shape), np.zeros(shape)
    for k in range(ratios[0].above.shape[2]):
        # float32 has a relative error of 1e-6 here, far below what resampling itself leaves open
        above = weights @ np.concatenate([own.above[..., k] for own in ratios]).T.astype(np.float32)
        below = weights @ np.concatenate([own.below[..., k] for own in ratios]).T.astype(np.float32)
        total += above / np.where(below > 0, below, 1)
        present += below > 0
    with np.errstate(invalid="ignore"):
        return total / present


# ---- paired tests


def shares(first: Ratios, second: Ratios) -> np.ndarray:
    """(units,) what each unit contributes to the difference of two methods' mean scores; their sum is the difference.

    I1 / U1 - I2 / U2 = ((I1 - I2) U - (U1 - U2) I) / (U1 U2), where I and U are the means of the two, and the
    differences are sums over units. To flip the sign of a share is to exchange the two methods' counts in that unit,
    but for the small change of U1 U2. Seeds are paired by their place if both methods have as many, else all with all.
    """
    if len(first.above) == len(second.above):
        seeds = [(i, i) for i in range(len(first.above))]
    else:
        seeds = [(i, j) for i in range(len(first.above)) for j in range(len(second.above))]
    found = []
    for i, j in seeds:
        above1, below1, above2, below2 = first.above[i], first.below[i], second.above[j], second.below[j]
        i1, u1, i2, u2 = above1.sum(0), below1.sum(0), above2.sum(0), below2.sum(0)
        both, odd = (u1 > 0) & (u2 > 0), (u1 > 0) ^ (u2 > 0)
        if not ((u1 > 0).any() and (u2 > 0).any()):
            continue  # a seed without a score
        weight = (1 / (u1 > 0).sum() + 1 / (u2 > 0).sum()) / 2 * both / np.where(both, u1 * u2, 1)
        share = (above1 - above2) @ (weight * (u1 + u2) / 2) - (below1 - below2) @ (weight * (i1 + i2) / 2)
        if odd.any():
            # A class that is nowhere in the truth, and that one of the two predicts, lowers its mean by being in it.
            guilty = (below1 + below2)[:, odd].sum(1)
            share += (mean_ratio(i1, u1) - mean_ratio(i2, u2) - share.sum()) * guilty / guilty.sum()
        found.append(share)
    return np.mean(found, axis=0)


def flip_signs(shares: np.ndarray, resamples: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """p of each difference if the signs of the units' shares were chance; plain, and corrected; two-sided.

    All signs that there are are tried if they are no more than ``resamples``; else so many are drawn, and b as large
    ones among m give p = (b + 1) / (m + 1) (Phipson and Smyth 2010). The correction is the step-down maximum (Westfall
    and Young 1993, Romano and Wolf 2005): how often the largest of this and all less clear differences is as large,
    each in units of its error.

    Args:
        shares: (units, comparisons), whose sums over units are the differences.
    """
    units, count = shares.shape
    size = np.sqrt((shares**2).sum(0))
    scaled = shares / np.where(size > 0, size, 1)
    order = np.argsort(np.abs(scaled.sum(0)))
    scaled = scaled[:, order]
    seen = np.abs(scaled.sum(0)) * (1 - 1e-9)  # equal but for rounding is equal
    plain, corrected = np.zeros(count), np.zeros(count)
    tried = 0
    for signs in _signs(units, count, resamples, rng):
        flipped = np.abs(signs @ scaled)
        plain += (flipped >= seen).sum(0)
        corrected += (np.maximum.accumulate(flipped, axis=1) >= seen).sum(0)
        tried += len(signs)
    itself = 0 if _all_signs(units, resamples) else 1
    plain, corrected = (plain + itself) / (tried + itself), (corrected + itself) / (tried + itself)
    corrected = np.maximum.accumulate(corrected[::-1])[::-1]  # a less clear difference has no smaller p
    back = np.argsort(order)
    return plain[back], corrected[back]


def _all_signs(units: int, resamples: int) -> bool:
    return units < 63 and 2**units <= resamples


def _signs(units: int, count: int, resamples: int, rng: np.random.Generator) -> Iterator[np.ndarray]:
    """(up to a chunk, units) of 1 and -1: all that there are, or so many random ones."""
    if _all_signs(units, resamples):
        yield 1.0 - 2.0 * (np.arange(2**units)[:, None] >> np.arange(units) & 1)
        return
    chunk = max(1, _CHUNK // max(units, count))
    for start in range(0, resamples, chunk):
        yield 1.0 - 2.0 * rng.integers(0, 2, (min(chunk, resamples - start), units), dtype=np.int8)


def t_tests(shares: np.ndarray) -> np.ndarray:
    """(units, comparisons) -> (comparisons,) two-sided p of the mean share being 0; 1 where there is no difference."""
    p = np.ones(shares.shape[1])
    some = (shares != 0).any(0)
    if some.any():
        p[some] = stats.ttest_1samp(shares[:, some], 0).pvalue
    return p
