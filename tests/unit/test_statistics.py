"""Statistics of tables: pooled scores, intervals and tests against SciPy, and error rates on simulated tables."""

from dataclasses import asdict
from itertools import product

import numpy as np
import pytest
from scipy import stats

from seg_cli.metrics.confusion import score
from seg_cli.reports.resampling import Ratios, flip_signs, shares, units_of
from seg_cli.reports.statistics import (
    Counts,
    Finding,
    analyse,
    has_counts,
    notes,
    rank,
    rank_scores,
    seeds_note,
    spread,
)

pytestmark = pytest.mark.filterwarnings("error")

METRICS = ("miou", "mean_dice", "pixel_accuracy", "iou:1", "dice:1")


def counts_of(matrices: np.ndarray) -> Counts:
    """(images, C, C) confusion matrices -> the counts of one seed."""
    hits = np.diagonal(matrices, axis1=1, axis2=2)
    return Counts(hits[None], (matrices.sum(1) + matrices.sum(2) - hits)[None])


def one_class(hits: np.ndarray, pixels: int = 100) -> Counts:
    """Images of the same union: the IoU is the mean of hits / pixels, as in any textbook."""
    return Counts(hits[None, :, None], np.full((1, len(hits), 1), pixels))


def random_methods(number: int = 3, images: int = 30, seeds: int = 2, classes: int = 4) -> list[Counts]:
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 500, (images, classes))
    found = []
    for i in range(number):
        hits = (truth * rng.uniform(0.5, 0.95 - 0.05 * i, (seeds, images, classes))).astype(int)
        found.append(Counts(hits, truth + rng.integers(0, 60, hits.shape)))
    return found


def draw(rng: np.random.Generator, images: int, shifts: tuple[float, ...], groups: int = 0) -> list[Counts]:
    """Methods whose share of right pixels is drawn about that of the image, and of their own luck with its group."""
    of = np.arange(images) % groups if groups else None
    pixels = rng.integers(500, 5_000, (images, 3))
    hard = rng.normal(1, 0.5, (images, 1))
    found = []
    for shift in shifts:
        own = rng.normal(0, 0.4, (groups, 1))[of] if of is not None else 0
        found_share = 1 / (1 + np.exp(-(hard + shift + own + rng.normal(0, 0.5, (images, 3)))))
        hits = (pixels * found_share).astype(int)
        found.append(Counts(hits[None], (pixels + (pixels - hits).sum(1, keepdims=True) // 3)[None]))
    return found


# ---- the score of a method


@pytest.mark.parametrize("metric", METRICS)
def test_a_mean_is_the_score_of_the_pooled_confusion_matrix(metric: str) -> None:
    matrices = np.random.default_rng(1).integers(0, 90, (12, 3, 3))
    scores = score(matrices.sum(0))
    [found] = analyse([counts_of(matrices)], metric, groups=None, resamples=50)
    values = {"iou:1": scores.iou[1], "dice:1": scores.dice[1]}
    assert found.mean == pytest.approx(values.get(metric) or getattr(scores, metric))
    assert found.low < found.mean < found.high
    assert (found.best, found.tied, found.p, found.p_corrected, found.difference) == (True, True, None, None, 0)


def test_means_and_deviations_are_over_seeds() -> None:
    method = Counts(np.array([[[50]], [[60]], [[70]]]), np.full((3, 1, 1), 100))
    [found] = analyse([method], "miou", groups=None)
    assert (found.mean, found.std, found.seeds) == (pytest.approx(0.6), pytest.approx(0.1), 3)
    assert np.isnan([found.low, found.high]).all(), "one image tells nothing about others"


def test_spread() -> None:
    assert spread([1.0, 2.0, 3.0]) == (2, 1)
    assert spread([2.0, float("nan")]) == (2, None)
    assert np.isnan(spread([])[0])


def test_a_class_that_is_nowhere_is_left_out_of_the_mean_and_has_no_score_of_its_own() -> None:
    hits, union = np.array([[[8, 0], [6, 0]]] * 1), np.array([[[10, 0], [10, 0]]])
    [found] = analyse([Counts(hits, union)], "miou", groups=None, resamples=20)
    assert found.mean == pytest.approx(0.7)
    [absent] = analyse([Counts(hits, union)], "iou:1", groups=None, resamples=20)
    assert np.isnan(absent.mean)
    assert (absent.p, absent.best, absent.tied, absent.seeds) == (None, False, False, 0)


def test_a_method_without_a_score_is_not_compared() -> None:
    truth = np.full((1, 10, 1), 5)
    findings = analyse([Counts(truth * 0, truth * 0), Counts(truth - 1, truth)], "iou:0", groups=None, resamples=20)
    assert np.isnan(findings[0].mean)
    assert findings[1].best


def test_what_is_no_metric_and_no_set_of_images_is_refused() -> None:
    assert all(map(has_counts, METRICS))
    assert not any(map(has_counts, ("fw_iou", "iou", "iou:", "iou:car", "miou:1", "boundary_iou")))
    with pytest.raises(ValueError, match="fw_iou does not follow from counts"):
        analyse(random_methods(), "fw_iou", groups=None)
    with pytest.raises(ValueError, match="different images"):
        analyse([random_methods()[0], random_methods(images=20)[0]], "miou", groups=None)
    with pytest.raises(ValueError, match="have a group"):
        analyse(random_methods(), "miou", groups=["a"])


def test_the_same_seed_gives_the_same_and_the_chunk_does_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    methods = random_methods()
    first = analyse(methods, "miou", groups=None, resamples=200)
    assert analyse(methods, "miou", groups=None, resamples=200) == first
    monkeypatch.setattr("seg_cli.reports.resampling._CHUNK", 300)
    for one, other in zip(first, analyse(methods, "miou", groups=None, resamples=200), strict=True):
        assert (one.mean, one.best) == (other.mean, other.best)
        assert one.low == pytest.approx(other.low, abs=0.01)


# ---- intervals


def test_the_interval_is_scipys_percentile_bootstrap_at_expanded_tails() -> None:
    hits = np.random.default_rng(2).integers(20, 90, 40)
    [found] = analyse([one_class(hits)], "miou", groups=None, resamples=20_000)
    inner = 1 - 2 * stats.norm.cdf(np.sqrt(40 / 39) * stats.t.ppf(0.025, 39))
    theirs = stats.bootstrap(
        (hits / 100,), np.mean, confidence_level=inner, n_resamples=20_000, method="percentile", rng=1
    ).confidence_interval
    assert (found.low, found.high) == pytest.approx((theirs.low, theirs.high), abs=0.002)


def test_the_interval_of_a_difference_is_paired() -> None:
    hits = np.random.default_rng(3).integers(20, 80, 50)
    better, worse = analyse([one_class(hits + 5), one_class(hits)], "miou", groups=None, resamples=500)
    assert (worse.difference_low, worse.difference_high) == (pytest.approx(-0.05), pytest.approx(-0.05))
    assert worse.high - worse.low > 0.05
    assert (better.difference, better.difference_low, better.difference_high) == (0, 0, 0)


def test_of_few_units_intervals_are_those_of_students_t() -> None:
    hits = np.array([50, 60, 64, 58])
    [found] = analyse([one_class(hits)], "miou", groups=None)
    low, high = stats.t.interval(0.95, 3, hits.mean() / 100, stats.sem(hits / 100))
    assert (found.low, found.high) == pytest.approx((low, high), abs=1e-5)


def test_images_of_a_group_are_drawn_together() -> None:
    """Copies of images say nothing new: ten groups of ten copies have the interval of ten images."""
    hits = np.random.default_rng(4).integers(20, 90, 10)
    ten = analyse([one_class(hits)], "miou", groups=None)[0]
    copies = one_class(np.repeat(hits, 10))
    grouped = analyse([copies], "miou", groups=[f"video{i}" for i in range(10) for _ in range(10)])[0]
    alone = analyse([copies], "miou", groups=None)[0]
    assert (grouped.low, grouped.high) == pytest.approx((ten.low, ten.high))
    assert alone.high - alone.low < 0.4 * (grouped.high - grouped.low)


def test_an_image_without_a_group_stands_alone() -> None:
    assert units_of(["a", "", "b", "a", ""], 5).tolist() == [0, 1, 2, 0, 3]
    assert units_of(None, 3).tolist() == [0, 1, 2]
    assert units_of(["", ""], 2).tolist() == [0, 1]


# ---- tests


def test_shares_add_up_to_the_difference_and_change_sign_when_the_methods_change_places() -> None:
    rng = np.random.default_rng(5)
    first, second = (
        Ratios(a, a + rng.integers(1, 50, a.shape)) for a in rng.integers(0, 90, (2, 2, 9, 4)).astype(float)
    )
    first.above[:, :, 3] = second.above[:, :, 3] = second.below[:, :, 3] = 0  # only the first predicts the last class
    found = shares(first, second)
    assert found.sum() == pytest.approx(first.scores().mean() - second.scores().mean())
    assert shares(second, first) == pytest.approx(-found)
    three = Ratios(
        np.concatenate([second.above, second.above[:1] / 2]), np.concatenate([second.below, second.below[:1]])
    )
    assert shares(first, three).sum() == pytest.approx(first.scores().mean() - three.scores().mean())


def test_a_class_of_one_image_is_the_share_of_that_image() -> None:
    """It decides the difference, but nothing is known of it in other images: flipping one sign has p = 1."""
    above, below = np.full((2, 1, 20, 2), 50.0), np.full((2, 1, 20, 2), 100.0)
    below[:, :, 1:, 1] = above[:, :, 1:, 1] = 0
    above[0, 0, 0, 1] = 90
    found = shares(Ratios(above[0], below[0]), Ratios(above[1], below[1]))
    assert found[0] == pytest.approx(0.2)
    assert np.count_nonzero(found) == 1
    assert flip_signs(found[:, None], 999, np.random.default_rng(0))[0] == 1


def test_p_is_that_of_scipys_paired_permutation_test() -> None:
    rng = np.random.default_rng(6)
    hits = rng.integers(20, 80, 10)
    other = hits - rng.integers(-8, 14, 10)
    found = analyse([one_class(hits), one_class(other)], "miou", groups=None, resamples=1024)
    theirs = stats.permutation_test(
        (hits, other), lambda a, b: np.mean(a - b), permutation_type="samples", n_resamples=np.inf
    )
    worse = found[1] if found[0].best else found[0]
    assert worse.p == pytest.approx(theirs.pvalue)
    assert worse.p_corrected == worse.p, "of two methods there is one comparison"


def test_drawn_signs_give_a_p_that_is_never_zero() -> None:
    clear = np.ones((40, 1))
    plain, corrected = flip_signs(clear, 99, np.random.default_rng(0))
    assert (plain[0], corrected[0]) == (0.01, 0.01)


def test_the_correction_is_the_step_down_maximum_by_hand() -> None:
    """All 8 signs of three units and three comparisons."""
    of_units = np.array([[3.0, 1.0, 0.5], [2.0, -1.0, 1.0], [1.0, 2.0, 0.2]])
    plain, corrected = flip_signs(of_units, 8, np.random.default_rng(0))
    size = np.sqrt((of_units**2).sum(0))
    seen = np.abs(of_units.sum(0)) / size
    all_signs = [np.abs(np.array(signs) @ of_units) / size for signs in product((1, -1), repeat=3)]
    order = np.argsort(-seen)
    least = 0.0
    for place, i in enumerate(order):
        least = max(least, np.mean([flipped[order[place:]].max() >= seen[i] - 1e-9 for flipped in all_signs]))
        assert corrected[i] == pytest.approx(least)
        assert plain[i] == pytest.approx(np.mean([flipped[i] >= seen[i] - 1e-9 for flipped in all_signs]))


def test_of_few_units_p_is_that_of_t_tests_with_holm_by_hand() -> None:
    hits = np.array([[50, 60, 64, 58], [48, 57, 61, 57], [40, 52, 50, 49]])
    found = analyse([one_class(row) for row in hits], "miou", groups=None)
    p = {(a, b): stats.ttest_rel(hits[a], hits[b]).pvalue for a, b in ((0, 1), (0, 2), (1, 2))}
    assert (found[1].p, found[2].p) == pytest.approx((p[0, 1], p[0, 2]))
    ranked = sorted(p, key=lambda pair: p[pair])
    holm, least = {}, 0.0
    for place, pair in enumerate(ranked):
        least = max(least, min(1, (3 - place) * p[pair]))
        holm[pair] = least
    assert (found[1].p_corrected, found[2].p_corrected) == pytest.approx((holm[0, 1], holm[0, 2]))
    assert found[1].tied == (holm[0, 1] >= 0.05)


def test_equal_methods_are_tied_and_the_first_is_the_best() -> None:
    method = random_methods(1)[0]
    for images in (30, 4):
        same = Counts(method.intersections[:, :images], method.unions[:, :images])
        first, second = analyse([same, same], "miou", groups=None, resamples=200)
        assert (first.best, second.best, second.tied, second.difference) == (True, False, True, 0)
        assert (second.p, second.p_corrected) == (1, 1)


def test_a_clear_difference_is_found_and_the_order_of_methods_does_not_matter() -> None:
    methods = random_methods(3, images=100)
    found = analyse(methods, "miou", groups=None, resamples=999)
    assert [one.best for one in found] == [True, False, False]
    assert [one.tied for one in found] == [True, False, False]
    assert found[2].difference < found[2].difference_high < 0
    assert found[2].p_corrected == 0.001
    turned = analyse(methods[::-1], "miou", groups=None, resamples=999)[::-1]
    for one, other in zip(found, turned, strict=True):
        assert (one.mean, one.best, one.tied) == (other.mean, other.best, other.tied)


def test_few_groups_can_show_nothing_and_one_group_has_no_test() -> None:
    methods = random_methods(2, images=40)
    [best, other] = analyse(methods, "miou", groups=["a"] * 40)
    assert (other.p, other.p_corrected, other.tied) == (None, None, True)
    assert np.isnan([other.low, other.difference_high, best.low]).all()
    [_, other] = analyse(methods, "miou", groups=["a"] * 20 + ["b"] * 20)
    assert other.p is not None
    assert other.high - other.low > 0.1


def test_methods_may_have_different_numbers_of_seeds() -> None:
    three, one = random_methods(2, seeds=3)
    alone = Counts(one.intersections[:1], one.unions[:1])
    found = analyse([three, alone], "miou", groups=None, resamples=99)
    assert [finding.seeds for finding in found] == [3, 1]
    assert found[1].std is None
    assert not found[1].tied


# ---- error rates


def verdicts(tables: int, shifts: tuple[float, ...], groups: int = 0, images: int = 60) -> list[list[Finding]]:
    rng = np.random.default_rng(11)
    names = [f"video{i % groups}" for i in range(images)] if groups else None
    return [
        analyse(draw(rng, images, shifts, groups), "miou", groups=names, resamples=199, seed=table)
        for table in range(tables)
    ]


@pytest.mark.parametrize(("methods", "groups"), [(2, 0), (20, 0), (5, 10)])
def test_where_there_is_no_difference_one_in_twenty_tables_shows_one_at_most(methods: int, groups: int) -> None:
    """Of 150 tables at 5 %, more than 15 have a probability of 0.3 %. Holm over the comparisons with the best has 30 of
    20 methods, and images taken for units where there are groups 65."""
    found = verdicts(150, (0.0,) * methods, groups)
    assert sum(any(not one.tied for one in findings) for findings in found) <= 15
    uncorrected = sum(any(one.p is not None and one.p < 0.05 for one in findings) for findings in found)
    assert methods == 2 or uncorrected > 30, "the check above would not notice a missing correction"


def test_a_difference_is_found_and_intervals_hold_the_truth() -> None:
    found = verdicts(200, (0.0, -0.3))
    assert np.mean([not findings[1].tied for findings in found]) > 0.8
    many = draw(np.random.default_rng(12), 100_000, (0.0, -0.3))
    truth = [analyse([counts], "miou", groups=None, resamples=2)[0].mean for counts in many]
    held = np.mean([[one.low <= value <= one.high for one, value in zip(f, truth, strict=True)] for f in found])
    assert 0.91 <= held <= 0.985
    gap = truth[1] - truth[0]
    paired = np.mean([f[1].difference_low <= gap <= f[1].difference_high for f in found if f[0].best])
    assert 0.90 <= paired <= 0.99


# ---- ranks


# Demšar (2006), table 6: ranks of C4.5, with m, with cf, and with both tuned, on 14 data sets
DEMSAR = -np.array(
    [
        *[(4, 3, 2, 1), (1, 2, 3, 4), (4, 1, 2, 3), (4, 1, 3, 2), (4, 2, 3, 1), (1, 2.5, 4, 2.5), (3, 2, 4, 1)],
        *[(2.5, 2.5, 4, 1), (4, 3, 2, 1), (2.5,) * 4, (4, 2.5, 1, 2.5), (3, 2, 4, 1), (4, 1, 2, 3), (3, 1, 4, 2)],
    ]
)


def test_ranks_are_those_of_demsars_example() -> None:
    found = rank_scores(DEMSAR)
    assert found is not None
    assert found.ranks == pytest.approx((3.143, 2.000, 2.893, 1.964), abs=5e-4)
    assert found.units == 14
    assert found.critical == pytest.approx(1.25, abs=5e-3)
    # his chi-square of 9.28 takes no account of ties: three of two methods (2^3 - 2 = 6 each) and one of all (60)
    assert found.p == pytest.approx(stats.chi2.sf(9.28 / (1 - (3 * 6 + 60) / (14 * 60)), 3), rel=0.01)


def test_ranks_are_of_images_or_of_groups() -> None:
    methods = random_methods(3, images=30)
    by_image = rank(methods, "miou", groups=None)
    by_group = rank(methods, "miou", groups=[f"video{i // 5}" for i in range(30)])
    assert by_image is not None
    assert by_group is not None
    assert (by_image.units, by_group.units) == (30, 6)
    assert sum(by_image.ranks) == pytest.approx(6)
    assert by_image.ranks[0] < by_image.ranks[2]
    assert rank(methods[:1], "miou", groups=None) is None
    assert rank(methods, "miou", groups=["a"] * 30) is None


def test_two_methods_and_equal_methods_are_ranked() -> None:
    two = rank_scores(DEMSAR[:, :2])
    assert two is not None
    assert two.p == pytest.approx(stats.wilcoxon(DEMSAR[:, 0], DEMSAR[:, 1]).pvalue)
    equal = rank_scores(np.tile(DEMSAR[:, :1], 3))
    assert equal is not None
    assert (equal.ranks, equal.p) == ((2, 2, 2), 1)


# ---- words


def test_notes_say_what_was_resampled_and_what_is_doubtful() -> None:
    plain = " ".join(notes(images=233, groups=None, methods=3))
    assert "bootstrap over 233 images, 10,000 resamples" in plain
    assert "p ≥ 0.05" in plain
    grouped = " ".join(notes(images=12, groups=["a", "b", "c"] * 4, methods=3))
    assert "3 groups of 12 images" in grouped
    assert "2 degrees of freedom" in grouped
    assert "Holm" in grouped
    assert "rough" in " ".join(notes(images=12, groups=None, methods=1))
    assert "no test is possible" in " ".join(notes(images=12, groups=["a"] * 12, methods=2))
    assert len(notes(images=500, groups=None, methods=1)) == 1


def test_seeds_note_gives_the_least_p_of_a_rank_test() -> None:
    assert seeds_note(1).startswith("One seed: nothing is known")
    assert "p ≥ 0.25" in seeds_note(3)
    assert "Wilcoxon" not in seeds_note(6)
    for seeds in (3, 5, 6):
        smallest = stats.wilcoxon(np.arange(1, seeds + 1), method="exact").pvalue
        assert (smallest < 0.05) == ("Wilcoxon" not in seeds_note(seeds))


def test_a_finding_is_plain_numbers() -> None:
    [found, _] = analyse(random_methods(2), "miou", groups=None, resamples=20)
    assert all(type(value) in (int, float, bool, type(None)) for value in asdict(found).values())
