"""Losses: values computed by hand, and how they relate."""

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from loss_cases import KINDS, TERMS, random_batch, value_and_gradient
from torch import Tensor

from seg_cli.data.labels import VOID
from seg_cli.losses import (
    BinaryCrossEntropy,
    CrossEntropy,
    Dice,
    Focal,
    GeneralizedDice,
    HardPixels,
    Jaccard,
    Lovasz,
    Tversky,
)
from seg_cli.losses.evidence import Term, evidence_of

ln = math.log

# One class that may overlap others: where it is, and the probability it is given.
LABEL = torch.tensor([[[[0, 1, 0], [0, 1, 0], [0, 1, 0]]]])
GIVEN = torch.tensor([[[[0, 0.9, 0], [0, 1, 0.8], [0, 0.3, 0.6]]]], dtype=torch.float64)

# Three classes: the probabilities at four pixels, the last of them void.
PROBS = torch.tensor([[0.6, 0.3, 0.1], [0.3, 0.5, 0.2], [0.2, 0.6, 0.2], [0.1, 0.1, 0.8]], dtype=torch.float64)
LOGITS = (PROBS.log().T + torch.tensor([1.0, -2.0, 0.5, 3.0])).reshape(1, 3, 2, 2)  # a softmax takes any shift
TARGET = torch.tensor([[[0, 1], [0, VOID]]])
# Sums of each class: I (its probability on its own pixels) 0.8, 0.5, 0; P (on all) 1.1, 1.4, 0.5; T (pixels) 2, 1, 0.

# A second image, where one pixel is not void, of class 1.
SECOND = torch.tensor([[0.1, 0.8, 0.1]] * 4, dtype=torch.float64).log().T.reshape(1, 3, 2, 2)
TWO_LOGITS = torch.cat((LOGITS, SECOND))
TWO_TARGETS = torch.cat((TARGET, torch.tensor([[[VOID, VOID], [1, VOID]]])))


def by_hand(term: Term, expected: float, logits: Tensor = LOGITS, target: Tensor = TARGET) -> None:
    assert float(term(logits, target)) == pytest.approx(expected, rel=1e-9)


# ---- the ingredients


def test_the_ingredients_by_hand() -> None:
    evidence = evidence_of(LOGITS, TARGET)
    np.testing.assert_allclose(evidence.intersections, [[0.8, 0.5, 0]], atol=1e-12)
    np.testing.assert_allclose(evidence.prob_sums, [[1.1, 1.4, 0.5]])
    np.testing.assert_array_equal(evidence.true_counts, [[2, 1, 0]])
    np.testing.assert_array_equal(evidence.valid_counts, [[3, 3, 3]])
    np.testing.assert_allclose(evidence.doubt, [[[0.4, 0.5], [0.8, 0]]])


def test_the_ingredients_of_overlapping_labels_by_hand() -> None:
    evidence = evidence_of(GIVEN.logit(), LABEL)
    np.testing.assert_allclose(evidence.intersections, [[0.9 + 1 + 0.3]])
    np.testing.assert_allclose(evidence.prob_sums, [[0.9 + 1 + 0.8 + 0.3 + 0.6]])
    np.testing.assert_allclose(evidence.probs, GIVEN)
    np.testing.assert_array_equal(evidence.true_counts, [[3]])


@pytest.mark.parametrize("classes", [2, 3])
def test_sums_over_millions_of_pixels_stay_exact_enough(classes: int) -> None:
    """Two million pixels of one class, each given the same small probability."""
    logits = torch.tensor([0.0, 2.0, -1e9])[:classes].view(1, -1, 1, 1).expand(1, -1, 1024, 2048)
    evidence = evidence_of(logits, torch.zeros(1, 1024, 2048, dtype=torch.uint8))
    expected = 1024 * 2048 / (1 + math.exp(2))
    assert float(evidence.intersections[0, 0]) == pytest.approx(expected, rel=1e-3)
    assert float(evidence.prob_sums[0, 0]) == pytest.approx(expected, rel=1e-5)
    assert float(evidence.true_counts[0, 0]) == 1024 * 2048


# ---- values


def test_overlapping_labels_by_hand() -> None:
    """Five pixels are right for sure; I is 2.2, P 3.6 and T 3."""
    yes, no = ln(0.9) + ln(0.3), ln(0.2) + ln(0.4)
    hard = 0.1**2 * ln(0.9) + 0.7**2 * ln(0.3), 0.8**2 * ln(0.2) + 0.6**2 * ln(0.4)
    for term, expected in (
        (Dice(smooth=0), 1 - 4.4 / 6.6),
        (Dice(smooth=1), 1 - 5.4 / 7.6),
        (Dice(smooth=0, squared=True), 1 - 4.4 / (0.81 + 1 + 0.64 + 0.09 + 0.36 + 3)),
        (GeneralizedDice(), 1 - 4.4 / 6.6),
        (Jaccard(smooth=0), 1 - 2.2 / 4.4),
        (Tversky(smooth=0), 1 - 2.2 / (2.2 + 0.3 * 1.4 + 0.7 * 0.8)),
        (CrossEntropy(), -(yes + no) / 9),
        (CrossEntropy(weights=[5]), -(yes + no) / 9),
        (BinaryCrossEntropy(), -(yes + no) / 9),
        (BinaryCrossEntropy(beta=0.75), -(0.75 * yes + 0.25 * no) / 9),
        (BinaryCrossEntropy(beta="balanced"), -(6 / 9 * yes + 3 / 9 * no) / 9),
        (Focal(gamma=2), -(0.1**2 * ln(0.9) + 0.8**2 * ln(0.2) + 0.7**2 * ln(0.3) + 0.6**2 * ln(0.4)) / 9),
        (Focal(gamma=2, alpha=0.25, form="sigmoid"), -(0.25 * hard[0] + 0.75 * hard[1]) / 9),
        (HardPixels(threshold=0.35), -(ln(0.2) + ln(0.3)) / 2),
        # Errors 0.8 (of no), 0.7 (of yes), 0.6 (of no), 0.1 (of yes); the index falls by 1/4, 1/4, 1/10, 1/5.
        (Lovasz(), 0.8 / 4 + 0.7 / 4 + 0.6 / 10 + 0.1 / 5),
    ):
        by_hand(term, expected, GIVEN.logit(), LABEL)


def test_cross_entropy_by_hand() -> None:
    by_hand(CrossEntropy(), -(ln(0.6) + ln(0.5) + ln(0.2)) / 3)
    by_hand(CrossEntropy(weights=[1, 2, 4]), -(ln(0.6) + 2 * ln(0.5) + ln(0.2)) / 4)
    by_hand(CrossEntropy(weights=[1, 0, 4]), -(ln(0.6) + ln(0.2)) / 2)
    true, other = ln(0.6) + ln(0.5) + ln(0.2), ln(0.3 * 0.1) + ln(0.3 * 0.2) + ln(0.6 * 0.2)
    by_hand(CrossEntropy(label_smoothing=0.3), -(0.8 * true + 0.1 * other) / 3)
    weighted = ln(0.6) + 2 * ln(0.5) + ln(0.2)
    of_all = ln(0.6 * 0.3 * 0.2) + 2 * ln(0.3 * 0.5 * 0.6) + 4 * ln(0.1 * 0.2 * 0.2)
    by_hand(CrossEntropy(weights=[1, 2, 4], label_smoothing=0.3), -(0.7 * weighted + 0.1 * of_all) / 4)


def test_label_smoothing_of_overlapping_labels_by_hand() -> None:
    logits = torch.tensor([0.2, 0.7], dtype=torch.float64).logit().view(1, 1, 1, 2)
    expected = -(0.95 * (ln(0.8) + ln(0.7)) + 0.05 * (ln(0.2) + ln(0.3))) / 2
    by_hand(CrossEntropy(label_smoothing=0.1), expected, logits, torch.tensor([[[[0, 1]]]]))
    by_hand(CrossEntropy(label_smoothing=0.1, weights=[3]), expected, logits, torch.tensor([[[[0, 1]]]]))


def test_binary_cross_entropy_takes_each_class_as_yes_or_no() -> None:
    p = (0.6, 0.2), (0.3, 0.5)  # of two classes at two pixels, the first of them of class 0, the other of class 1
    logits = torch.tensor(p, dtype=torch.float64).logit().T.reshape(1, 2, 1, 2)
    yes, no = (ln(0.6), ln(0.5)), (ln(0.7), ln(0.8))
    target = torch.tensor([[[0, 1]]])
    by_hand(BinaryCrossEntropy(), -(sum(yes) + sum(no)) / 4, logits, target)
    by_hand(BinaryCrossEntropy(beta="balanced"), -(sum(yes) + sum(no)) / 8, logits, target)
    of_first_pixel = torch.tensor([[[0, VOID]]])
    # The share of no is 0 for class 0, which only its no would weigh, and 1 for class 1, which has none to weigh.
    by_hand(BinaryCrossEntropy(beta="balanced"), 0, logits, of_first_pixel)
    by_hand(BinaryCrossEntropy(beta=0.75), -(0.75 * ln(0.6) + 0.25 * ln(0.8)) / 2, logits, of_first_pixel)


def test_focal_by_hand() -> None:
    for gamma in (0.5, 1, 2):
        easy = [(1 - p) ** gamma * ln(p) for p in (0.6, 0.5, 0.2)]
        by_hand(Focal(gamma=gamma), -sum(easy) / 3)
        by_hand(Focal(gamma=gamma, weights=[1, 2, 4]), -(easy[0] + 2 * easy[1] + easy[2]) / 4)


def test_hard_pixels_by_hand() -> None:
    """The true classes are given 0.6, 0.5 and 0.2."""
    by_hand(HardPixels(threshold=0.55), -(ln(0.5) + ln(0.2)) / 2)
    by_hand(HardPixels(threshold=0.55, weights=[1, 3, 1]), -(3 * ln(0.5) + ln(0.2)) / 4)
    by_hand(HardPixels(threshold=0.1, keep=0.1), -ln(0.2))
    by_hand(HardPixels(threshold=0.1, keep=0.5), -(ln(0.5) + ln(0.2)) / 2)
    by_hand(HardPixels(threshold=1), -(ln(0.6) + ln(0.5) + ln(0.2)) / 3)
    by_hand(HardPixels(threshold=0.55, keep=1), -(ln(0.6) + ln(0.5) + ln(0.2)) / 3)
    for keep, kept in ((0.3, 1), (0.34, 2), (0.6, 2), (0.7, 3)):
        by_hand(HardPixels(threshold=0, keep=keep), -sum(map(ln, (0.2, 0.5, 0.6)[:kept])) / kept)


def test_pixels_as_hard_as_the_last_one_kept_are_kept_too() -> None:
    logits = torch.tensor([0.0, 1, 1, 3]).view(1, 1, 2, 2)
    value, gradient = value_and_gradient(HardPixels(threshold=0, keep=0.5), logits, torch.ones(1, 1, 2, 2).long())
    torch.testing.assert_close(value, F.softplus(-torch.tensor([0.0, 1, 1])).mean())
    assert (gradient != 0).flatten().tolist() == [True, True, True, False]


def test_dice_by_hand() -> None:
    by_hand(Dice(smooth=0), 1 - (1.6 / 3.1 + 1 / 2.4) / 2)
    by_hand(Dice(smooth=1), 1 - (2.6 / 4.1 + 2 / 3.4) / 2)
    by_hand(Dice(smooth=0, classes="all"), 1 - (1.6 / 3.1 + 1 / 2.4 + 0) / 3)
    by_hand(Dice(smooth=1, classes="all"), 1 - (2.6 / 4.1 + 2 / 3.4 + 1 / 1.5) / 3)
    by_hand(Dice(smooth=0, squared=True), 1 - (1.6 / (0.36 + 0.09 + 0.04 + 2) + 1 / (0.09 + 0.25 + 0.36 + 1)) / 2)


def test_dice_over_the_batch_and_over_images_by_hand() -> None:
    batch = 1 - (1.6 / 3.2 + 2 * 1.3 / (2.2 + 2)) / 2
    images = 1 - (1.6 / 3.1 + 1 / 2.4 + 1.6 / 1.8) / 3
    by_hand(Dice(smooth=0, over="batch"), batch, TWO_LOGITS, TWO_TARGETS)
    by_hand(Dice(smooth=0, over="image"), images, TWO_LOGITS, TWO_TARGETS)
    of_all = 1 - (1.6 / 3.1 + 1 / 2.4 + 0 + 0 + 1.6 / 1.8 + 0) / 6
    by_hand(Dice(smooth=0, over="image", classes="all"), of_all, TWO_LOGITS, TWO_TARGETS)


def test_generalized_dice_by_hand() -> None:
    """The weights are 1/4 and 1; in the batch of two, 1/4 and 1/4; in the second image alone, 1 for class 1."""
    one = 1 - 2 * (0.8 / 4 + 0.5) / (3.1 / 4 + 2.4)
    by_hand(GeneralizedDice(), one)
    by_hand(GeneralizedDice(), 1 - 2 * (0.8 / 4 + 1.3 / 4) / (3.2 / 4 + 4.2 / 4), TWO_LOGITS, TWO_TARGETS)
    by_hand(GeneralizedDice(over="image"), (one + 1 - 1.6 / 1.8) / 2, TWO_LOGITS, TWO_TARGETS)


def test_jaccard_by_hand() -> None:
    by_hand(Jaccard(smooth=0), 1 - (0.8 / 2.3 + 0.5 / 1.9) / 2)
    by_hand(Jaccard(smooth=1), 1 - (1.8 / 3.3 + 1.5 / 2.9) / 2)
    by_hand(Jaccard(smooth=1, classes="all"), 1 - (1.8 / 3.3 + 1.5 / 2.9 + 1 / 1.5) / 3)
    by_hand(Jaccard(smooth=0, over="image"), 1 - (0.8 / 2.3 + 0.5 / 1.9 + 0.8 / 1) / 3, TWO_LOGITS, TWO_TARGETS)


def test_tversky_by_hand() -> None:
    """False positives 0.3 and 0.9, false negatives 1.2 and 0.5."""
    first, second = 0.8 / (0.8 + 0.3 * 0.3 + 0.7 * 1.2), 0.5 / (0.5 + 0.3 * 0.9 + 0.7 * 0.5)
    by_hand(Tversky(smooth=0), 1 - (first + second) / 2)
    by_hand(Tversky(smooth=0, gamma=4 / 3), ((1 - first) ** 0.75 + (1 - second) ** 0.75) / 2)
    by_hand(Tversky(alpha=1, beta=0, smooth=1), 1 - (1.8 / 2.1 + 1.5 / 2.4) / 2)


def test_lovasz_by_hand() -> None:
    """Class 0: errors 0.8 and 0.4 of its own pixels, each half of the index. Class 1: 0.6 of another's, then 0.5."""
    by_hand(Lovasz(), ((0.8 + 0.4) / 2 + (0.6 + 0.5) / 2) / 2)
    by_hand(Lovasz(over="image"), ((0.8 + 0.4) / 2 + (0.6 + 0.5) / 2 + 0.2) / 3, TWO_LOGITS, TWO_TARGETS)


def test_lovasz_is_the_extension_of_the_jaccard_index() -> None:
    """Of a prediction that is sure everywhere, it is 1 - IoU; and in between, a sum over the sets of worst pixels."""
    logits, target = random_batch("exclusive", void=0.3)
    sure = 1000 * F.one_hot(logits.argmax(1), 4).permute(0, 3, 1, 2).float()
    truth, predicted = target[target != VOID], logits.argmax(1)[target != VOID]
    iou = [((truth == c) & (predicted == c)).sum() / ((truth == c) | (predicted == c)).sum() for c in range(4)]
    assert float(Lovasz()(sure, target)) == pytest.approx(1 - float(torch.stack(iou).mean()))

    probs = logits.double().softmax(1).permute(0, 2, 3, 1)[target != VOID]  # (pixels, C)
    losses = []
    for c in range(4):
        errors = (probs[:, c] - (truth == c).double()).abs()
        levels = [*sorted(errors.tolist(), reverse=True), 0.0]
        for upper, lower in pairwise(levels):
            wrong = errors >= upper  # with these pixels wrong and the others right
            union = ((truth == c) | wrong).sum()
            losses.append((upper - lower) * float(wrong.sum() / union))
    assert float(Lovasz()(logits.double(), target)) == pytest.approx(sum(losses) / 4)


# ---- how they relate


@pytest.mark.parametrize("kind", KINDS)
def test_focal_with_gamma_0_is_cross_entropy_with_its_gradient(kind: str) -> None:
    batch = random_batch(kind)
    for focal, cross_entropy in zip(
        value_and_gradient(Focal(gamma=0), *batch), value_and_gradient(CrossEntropy(), *batch), strict=True
    ):
        torch.testing.assert_close(focal, cross_entropy, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("smooth", [0, 1])
def test_tversky_of_a_half_is_dice_with_twice_the_smoothing_and_of_one_jaccard(kind: str, smooth: float) -> None:
    batch = random_batch(kind)
    half = Tversky(alpha=0.5, beta=0.5, smooth=smooth)
    for found, expected in ((half, Dice(smooth=2 * smooth)), (Tversky(alpha=1, beta=1), Jaccard())):
        torch.testing.assert_close(value_and_gradient(found, *batch), value_and_gradient(expected, *batch))


@pytest.mark.parametrize("kind", KINDS)
def test_the_jaccard_score_of_a_class_is_d_over_2_minus_d(kind: str) -> None:
    logits, target = random_batch(kind)
    target[(target != 1) & (target != VOID)] = VOID  # one class is present
    if kind == "overlapping":
        logits, target = logits[:, :1], target[:, :1]
    dice = 1 - Dice(smooth=0)(logits, target)
    torch.testing.assert_close(1 - Jaccard(smooth=0)(logits, target), dice / (2 - dice))


def test_one_vs_all_is_the_same_target_as_labels_that_do_not_overlap() -> None:
    logits, target = random_batch("exclusive")
    labels = F.one_hot(target.long(), 256)[..., :4].permute(0, 3, 1, 2)
    labels[(target == VOID).unsqueeze(1).expand_as(labels)] = VOID
    for make in ("bce", "bce balanced", "focal sigmoid"):
        term = TERMS[make]()
        torch.testing.assert_close(term(logits, target), term(logits, labels))


def test_terms_without_a_form_for_overlapping_labels_take_a_sigmoid() -> None:
    batch = random_batch("overlapping")
    torch.testing.assert_close(CrossEntropy()(*batch), BinaryCrossEntropy()(*batch))
    torch.testing.assert_close(Focal()(*batch), Focal(form="sigmoid")(*batch))
