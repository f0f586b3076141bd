"""What the scores of several methods say about which is better: intervals, paired tests, ranks.

All follows from the pixels of each class in each image (``per_image.csv``), so that the score of a resample is that of
its pooled counts, as the score of a split is. What was measured together stays together: the unit that is drawn is an
image, or a group of images that are not independent (the frames of a video), and it is the same for all methods.
docs/statistics.md has the reasons and sources, bench/significance.py the error rates.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from scipy import stats
from statsmodels.stats.multitest import multipletests

from seg_cli.reports.resampling import (
    FEW,
    Ratios,
    bootstrap,
    flip_signs,
    jackknife,
    only_occupied,
    pool,
    shares,
    t_tests,
    units_of,
)


@dataclass(frozen=True)
class Counts:
    """Pixels of one method on one split, void left out, of all its seeds; images in the same order for all methods.

    Attributes:
        intersections: (seeds, images, C) integers, pixels of a class in truth and prediction.
        unions: (seeds, images, C) integers, pixels of a class in truth or prediction.
    """

    intersections: np.ndarray
    unions: np.ndarray


@dataclass(frozen=True)
class Finding:
    """What is known of one method and one metric; a float is NaN where it is not defined.

    Attributes:
        mean: of the seeds' scores. NaN where the class of the metric does not occur.
        std: over the seeds (ddof=1), None with one seed.
        seeds: how many have a score.
        low, high: interval of the mean over images (or groups) like these; NaN with a single one.
        difference: to the best method, 0 for the best itself, else negative or 0.
        difference_low, difference_high: its interval, paired over images (or groups).
        p: how often chance in the images alone makes as large a difference; None for the best, and of a single unit.
        p_corrected: the same, corrected for the comparisons of every method with every other.
        best: the highest mean; the first of equal ones.
        tied: the data cannot tell it from the best; so is the best itself.
    """

    mean: float
    std: float | None
    seeds: int
    low: float
    high: float
    difference: float
    difference_low: float
    difference_high: float
    p: float | None
    p_corrected: float | None
    best: bool
    tied: bool


# ---- methods


def has_counts(metric: str) -> bool:
    """Whether a metric follows from counts: miou, mean_dice, pixel_accuracy, iou:<index>, dice:<index>."""
    name, _, index = metric.partition(":")
    return metric in ("miou", "mean_dice", "pixel_accuracy") or (name in ("iou", "dice") and index.isdecimal())


def analyse(
    methods: Sequence[Counts],
    metric: str,
    *,
    groups: Sequence[str] | None,
    resamples: int = 10_000,
    level: float = 0.95,
    seed: int = 0,
) -> list[Finding]:
    """Compare methods on the same images.

    The intervals and tests are about the networks that were trained, on other images like these. What another training
    would give is in ``std`` alone.

    Args:
        methods: one or more.
        metric: see ``has_counts``. ``pixel_accuracy`` supposes that a pixel has one class, and that void is ignored.
        groups: of each image, "" for one that stands alone; None where images are independent.
        resamples: how many are drawn, for intervals and for tests.
        level: of the intervals; a method is tied with the best where p_corrected is 1 - level or more.
        seed: of the random generator; the same gives the same result.

    Raises:
        ValueError: a metric without counts, or methods with other numbers of images.
    """
    ratios = _ratios(methods, metric, groups)
    by_seed = [own.scores() for own in ratios]
    means = [spread(scores)[0] for scores in by_seed]
    defined = [i for i, mean in enumerate(means) if not np.isnan(mean)]
    findings = [_undefined() for _ in methods]
    if not defined:
        return findings

    known = only_occupied([ratios[i] for i in defined])
    best = int(np.argmax([means[i] for i in defined]))
    rng = np.random.default_rng(seed)
    few = known[0].units < FEW
    intervals = jackknife(known, best, level) if few else bootstrap(known, best, resamples, level, rng)
    tests = _compare(known, best, resamples, rng)
    alpha = round(1 - level, 9)
    for i, ((low, high), (difference_low, difference_high)), test in zip(defined, intervals, tests, strict=True):
        p, p_corrected = test or (None, None)
        findings[i] = Finding(
            mean=means[i],
            std=spread(by_seed[i])[1],
            seeds=int((~np.isnan(by_seed[i])).sum()),
            low=low,
            high=high,
            difference=means[i] - means[defined[best]],
            difference_low=difference_low,
            difference_high=difference_high,
            p=p,
            p_corrected=p_corrected,
            best=i == defined[best],
            tied=p_corrected is None or p_corrected >= alpha,
        )
    return findings


def _ratios(methods: Sequence[Counts], metric: str, groups: Sequence[str] | None) -> list[Ratios]:
    if not has_counts(metric):
        raise ValueError(f"{metric} does not follow from counts")
    images = {counts.unions.shape[1] for counts in methods} | ({len(groups)} if groups is not None else set())
    if len(images) != 1:
        raise ValueError(f"the methods have different images, or not all have a group: {sorted(images)}")
    unit_of = units_of(groups, images.pop())
    name, _, index = metric.partition(":")
    found = []
    for counts in methods:
        above, below = counts.intersections, counts.unions
        if index:
            above, below = above[..., int(index), None], below[..., int(index), None]
        if name in ("mean_dice", "dice"):
            above, below = 2 * above, above + below
        elif name == "pixel_accuracy":
            # truth and prediction of all classes together hold every pixel that is not void twice
            above, below = above.sum(-1, keepdims=True), (above + below).sum(-1, keepdims=True) / 2
        found.append(Ratios(pool(above, unit_of), pool(below, unit_of)))
    return found


def _compare(
    ratios: Sequence[Ratios], best: int, resamples: int, rng: np.random.Generator
) -> list[tuple[float, float] | None]:
    """p of each method against the best, plain and corrected; None for the best itself and of a single unit.

    The best is picked from the data, so that every pair might have been compared: correcting for the comparisons with
    the best alone calls too much different (bench/significance.py).
    """
    pairs = list(combinations(range(len(ratios)), 2))
    if not pairs or ratios[0].units < 2:
        return [None] * len(ratios)
    of_units = np.stack([shares(ratios[a], ratios[b]) for a, b in pairs], 1)
    if ratios[0].units < FEW:
        plain = t_tests(of_units)
        corrected = multipletests(plain, method="holm")[1]
    else:
        plain, corrected = flip_signs(of_units, resamples, rng)
    found: list[tuple[float, float] | None] = [None] * len(ratios)
    for pair, *values in zip(pairs, plain.tolist(), corrected.tolist(), strict=True):
        if best in pair:
            found[sum(pair) - best] = (values[0], values[1])
    return found


def _undefined() -> Finding:
    nan = float("nan")
    return Finding(nan, None, 0, nan, nan, nan, nan, nan, None, None, best=False, tied=False)


# ---- ranks


@dataclass(frozen=True)
class Ranking:
    """Average ranks, after Demšar (2006, JMLR 7).

    Attributes:
        ranks: of the methods; 1 is that of a method that is best on every unit, equal ones share theirs.
        units: images or groups on which all have a score.
        p: that the ranks differ by chance, by Friedman's test; of two methods, by Wilcoxon's signed-rank test.
        critical: methods whose ranks differ by less cannot be told apart (Nemenyi's test).
    """

    ranks: tuple[float, ...]
    units: int
    p: float
    critical: float


def rank(
    methods: Sequence[Counts], metric: str, *, groups: Sequence[str] | None, level: float = 0.95
) -> Ranking | None:
    """Rank the methods on every image (or group) by the mean of their seeds, and average.

    This asks which method is ahead on most images, whatever by; ``analyse`` asks for the score of all pixels.

    Args:
        methods, metric, groups: as in ``analyse``.
        level: of the critical difference.

    Returns:
        None of fewer than two methods, or of fewer than two units.
    """
    scores = np.stack([own.scores_of_units() for own in _ratios(methods, metric, groups)], 1)
    return rank_scores(scores[~np.isnan(scores).any(1)], level=level)


def rank_scores(scores: np.ndarray, *, level: float = 0.95) -> Ranking | None:
    """As ``rank``, from scores (units, methods)."""
    units, count = scores.shape
    if units < 2 or count < 2:
        return None
    # 1e-9: the same score computed in another order is the same score
    ranks = stats.rankdata(-scores.round(9), axis=1).mean(0)
    if np.ptp(ranks) == 0:
        p = 1.0
    elif count == 2:
        p = float(stats.wilcoxon(scores[:, 0].round(9), scores[:, 1].round(9)).pvalue)
    else:
        p = float(stats.friedmanchisquare(*scores.round(9).T).pvalue)
    quantile = stats.studentized_range.ppf(level, count, np.inf) / np.sqrt(2)
    critical = float(quantile * np.sqrt(count * (count + 1) / (6 * units)))
    return Ranking(tuple(ranks.tolist()), units, p, critical)


# ---- words


def spread(values: Sequence[float] | np.ndarray) -> tuple[float, float | None]:
    """Mean and standard deviation (ddof=1, None of fewer than two) of the values that are not NaN."""
    known = np.asarray(values, np.float64)
    known = known[~np.isnan(known)]
    if not known.size:
        return float("nan"), None
    return float(known.mean()), float(known.std(ddof=1)) if known.size > 1 else None


def seeds_note(seeds: int) -> str:
    """What so many seeds a method can say, as sentences under a table."""
    if seeds < 2:
        return "One seed: nothing is known about the spread over seeds; another training may give another order."
    note = (
        f"{seeds} seeds: ± is their standard deviation. Tests are over images or their groups: they tell these trained "
        "networks apart, and do not say that training again gives the same order."
    )
    if seeds < 6:
        note += f" No rank test over {seeds} seeds can be significant (exact Wilcoxon: p ≥ {2 / 2**seeds:.4g})."
    return note


def notes(
    *, images: int, groups: Sequence[str] | None, methods: int, resamples: int = 10_000, level: float = 0.95
) -> list[str]:
    """How intervals and bold were found, and what is doubtful in them, as sentences under a table."""
    units = len(np.unique(units_of(groups, images)))
    if units < 2:
        only = "image" if images < 2 else "group of images"
        return [f"A single {only}: no interval and no test is possible, and nothing can be told apart."]
    name = "images" if units == images else "groups"
    what = f"{units} images" if units == images else f"{units} groups of {images} images in all"
    if units < FEW:
        test = f"paired t-test over {name}, Holm over all comparisons"
        said = [
            f"{level:.0%} intervals: jackknife over {what}, t distribution with {units - 1} "
            f"degree{'s' if units > 2 else ''} of freedom.",
            f"With {units} {name}, intervals and tests assume that differences between {name} are normally "
            f"distributed, and can show little; other {name} may give another order.",
        ]
    else:
        test = f"paired sign flips over {name}, step-down maximum over all comparisons"
        said = [f"{level:.0%} intervals: bootstrap over {what}, {resamples:,} resamples."]
        if units < 20:
            said.append(f"Intervals over {units} {name} are rough: of 95% ones, about 93% hold the truth.")
    if methods > 1:
        said.append(f"Bold: the best, and all that cannot be told from it (p ≥ {1 - level:.2g}; {test}).")
    return said
