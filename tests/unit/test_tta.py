"""Test-time augmentation: views are undone exactly, combined once each, and their mean is what it says."""

from collections.abc import Callable
from itertools import product

import numpy as np
import pytest
import torch
from torch import Tensor

from seg_cli.inference.tta import Tta, combined
from seg_cli.inference.views import (
    Flip,
    Lattice,
    Moved,
    Rotate,
    Rotate90,
    Scale,
    Scaled,
    Shift,
    Transform,
    Turned,
    in_turn,
)
from seg_cli.metrics.counting import Counting

EXCLUSIVE, OVERLAPPING = Counting(3), Counting(3, overlapping=True)
IMAGES = torch.randint(0, 256, (2, 3, 9, 14), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
LATTICES = [Lattice(turns, mirrored) for turns in range(4) for mirrored in (False, True)]


def pointwise(images: Tensor) -> Tensor:
    """Logits of each pixel from that pixel alone."""
    x = images.float() / 40
    return torch.stack((x[:, 0] - x[:, 1], x[:, 1] * x[:, 2] / 5 - 3, 2 - x[:, 2]), 1)


def probabilities(scores: Tensor, counting: Counting) -> Tensor:
    return scores.sigmoid() if counting.overlapping else scores.softmax(1)


def tta(average: str = "probabilities", *transforms: Transform, views_per_batch: int | str = "auto") -> Tta:
    names = {str(i): transform for i, transform in enumerate(transforms)}
    return Tta(transforms=names, average=average, views_per_batch=views_per_batch)


# ---- views


@pytest.mark.parametrize("view", LATTICES)
def test_mirrors_and_quarter_turns_are_those_of_numpy_and_their_undoing_is_exact(view: Lattice) -> None:
    seen = view(IMAGES)
    expected = IMAGES.numpy()[..., ::-1] if view.mirrored else IMAGES.numpy()
    np.testing.assert_array_equal(seen.images, np.rot90(expected, view.turns, (2, 3)))
    assert torch.equal(seen.undo(seen.images), IMAGES)


@pytest.mark.parametrize(("second", "first"), [*product(LATTICES, LATTICES)])
def test_two_of_them_are_one(second: Lattice, first: Lattice) -> None:
    assert torch.equal(second.after(first)(IMAGES).images, second(first(IMAGES).images).images)


@pytest.mark.parametrize("move", [(2, -3), (-8, 0), (0, 13), (6, 5), (9, 1), (-50, 50)])
def test_what_is_moved_comes_back_but_for_what_went_out(move: tuple[int, int]) -> None:
    down, right = move
    seen = Moved(down, right)(IMAGES)
    back, weight = seen.undo(seen.images.float()), seen.undo(torch.ones(1, 1, 9, 14))
    for y, x in product(range(9), range(14)):
        inside = 0 <= y + down < 9 and 0 <= x + right < 14
        assert weight[0, 0, y, x] == inside
        assert torch.equal(back[..., y, x], IMAGES[..., y, x].float() * inside)
        if inside:
            assert torch.equal(seen.images[..., y + down, x + right], IMAGES[..., y, x])
    assert not seen.everything


def test_a_turn_goes_left_by_its_angle_about_the_centre() -> None:
    """Of a quarter, which the setting does not allow, the picture is known."""
    square = IMAGES[..., :9]
    torch.testing.assert_close(Turned(90.0)(square).images, torch.rot90(square, 1, (2, 3)).float(), atol=0.01, rtol=0)
    picture = torch.zeros(1, 1, 41, 61)
    picture[..., 19:22, 48:51] = 1  # 19 pixels right of the centre
    rows, columns = (Turned(30.0)(picture).images[0, 0] > 0.5).nonzero().float().mean(0)
    assert (20 - rows, columns - 30) == (pytest.approx(19 * 0.5, abs=0.3), pytest.approx(19 * 0.866, abs=0.3))


def test_a_turned_picture_says_nothing_of_its_corners_and_the_same_in_its_middle() -> None:
    smooth = torch.linspace(0, 1, 60)[:, None] + torch.linspace(0, 2, 80)
    seen = Turned(7.0)(smooth.expand(1, 1, -1, -1))
    weight = seen.undo(torch.ones(1, 1, 60, 80))
    assert weight[0, 0, [0, 0, -1, -1], [0, -1, 0, -1]].max() < 0.1
    assert weight[..., 10:-10, 10:-10].min() == pytest.approx(1, abs=1e-5)
    known = seen.undo(torch.ones_like(seen.images) * 5) / weight.clamp(min=1e-30)
    assert known[weight > 0].sub(5).abs().max() < 1e-4  # a constant has no seam where the picture ends
    difference = (seen.undo(seen.images)[0, 0] - smooth)[10:-10, 10:-10]
    assert difference.abs().max() < 1e-3


@pytest.mark.parametrize("factor", [0.5, 0.7, 1.3, 2.0])
def test_another_size_has_its_pixels_in_the_same_places(factor: float) -> None:
    """A slope is the same slope: half a pixel of an offset would be seen."""
    slope = (torch.arange(40.0)[:, None] * 3 + torch.arange(60.0)).expand(1, 1, -1, -1)
    seen = Scaled(factor)(slope)
    assert seen.images.shape[-2:] == (round(40 * factor), round(60 * factor))
    down, right = (((torch.arange(n * factor) + 0.5) / factor - 0.5) for n in (40, 60))
    expected = down[:, None] * 3 + right
    margin = slice(6, -6)
    torch.testing.assert_close(seen.images[0, 0, margin, margin], expected[margin, margin], atol=0.35, rtol=0)
    torch.testing.assert_close(seen.undo(seen.images)[..., 6:-6, 6:-6], slope[..., 6:-6, 6:-6], atol=0.35, rtol=0)
    assert (seen.undo(seen.images) - slope)[..., 6:-6, 6:-6].mean().abs() < 0.02


def test_views_after_another_are_undone_in_the_other_order() -> None:
    seen = in_turn((Lattice(1, True), Moved(0, 2), Scaled(2.0)), IMAGES)
    assert seen.images.shape[-2:] == (28, 18)
    assert not seen.everything
    constant = seen.undo(torch.full((2, 3, 28, 18), 7.0))
    weight = seen.undo(torch.ones(1, 1, 28, 18))
    torch.testing.assert_close(constant, 7 * weight.expand_as(constant))
    assert weight.sum() == pytest.approx(9 * 14 - 14 * 2)  # columns of the turned picture are rows of the image


# ---- which views


def count(*transforms: Transform) -> int:
    return len(combined([transform.views() for transform in transforms]))


def test_each_view_is_combined_with_each_and_none_is_taken_twice() -> None:
    both = Flip(horizontal=True, vertical=True)
    assert count() == 1
    assert count(Flip()) == 2
    assert count(both) == 4
    assert count(Rotate90()) == 4
    assert count(Flip(), Rotate90()) == count(both, Rotate90()) == 8  # not 8 and 16: a half turn is two mirrors
    assert count(Scale(factors=[0.75, 1, 1.25])) == 3
    assert count(Flip(), Scale(factors=[0.5, 0.75, 1, 1.25, 1.5, 1.75])) == 12
    assert count(Rotate(degrees=[-5, 5, 0])) == 3
    assert count(Shift(pixels=4), Flip()) == 10


def test_the_order_in_which_kinds_are_written_does_not_matter() -> None:
    kinds = [Shift(pixels=2), Scale(factors=[1, 2]), Flip(), Rotate(degrees=[3]), Rotate90()]
    forward, backward = (combined([kind.views() for kind in some]) for some in (kinds, kinds[::-1]))
    assert set(forward) == set(backward)
    assert len(forward) == 5 * 2 * 8 * 2


# ---- the mean

EXACT = {
    "flip": [Flip(horizontal=True, vertical=True)],
    "rotate90": [Rotate90()],
    "shift": [Shift(pixels=3)],
    "all": [Flip(), Rotate90(), Shift(pixels=20)],
}


@pytest.mark.parametrize("counting", [EXCLUSIVE, OVERLAPPING])
@pytest.mark.parametrize("average", ["probabilities", "logits"])
@pytest.mark.parametrize("kinds", EXACT)
def test_a_model_that_commutes_with_the_views_says_what_it_said(average: str, kinds: str, counting: Counting) -> None:
    plain = pointwise(IMAGES)
    scores = tta(average, *EXACT[kinds])(pointwise, IMAGES, counting)
    expected = probabilities(plain, counting)
    torch.testing.assert_close(probabilities(scores, counting), expected, atol=1e-6, rtol=0)
    assert torch.equal(counting.predict(scores), counting.predict(plain))
    if average == "logits":
        torch.testing.assert_close(scores, plain)


@pytest.mark.parametrize("counting", [EXCLUSIVE, OVERLAPPING])
@pytest.mark.parametrize("kinds", EXACT)
def test_votes_that_agree_are_its_labels(kinds: str, counting: Counting) -> None:
    scores = tta("votes", *EXACT[kinds])(pointwise, IMAGES, counting)
    assert torch.equal(counting.predict(scores), counting.predict(pointwise(IMAGES)))
    assert probabilities(scores, counting).max() > 0.998


@pytest.mark.parametrize("average", ["probabilities", "logits", "votes"])
@pytest.mark.parametrize("transform", [Rotate(degrees=[-20, 20]), Scale(factors=[0.6, 1.7])])
def test_on_one_colour_turns_and_sizes_change_nothing(average: str, transform: Transform) -> None:
    images = torch.tensor([200.0, 90, 30]).view(1, 3, 1, 1).expand(1, 3, 20, 31)
    scores = tta(average, transform)(pointwise, images, EXCLUSIVE)
    plain = pointwise(images)
    if average == "votes":
        plain = 0.999 * torch.eye(3)[plain.argmax(1)].movedim(-1, 1) + 0.001 * plain.softmax(1)
        plain = plain.log()
    torch.testing.assert_close(scores.softmax(1), plain.softmax(1), atol=1e-5, rtol=0)


def by_place(*tables: Tensor) -> Callable[[Tensor], Tensor]:
    """A model that returns the given logits, one call after another."""
    waiting = list(tables)
    return lambda images: waiting.pop(0)


def test_the_mean_is_that_of_probabilities_logits_or_votes() -> None:
    """Two views of one pixel, by hand: logits (2, 0) and (-1, 0), of which the mirror image has one pixel too."""
    counting, image = Counting(2), torch.zeros(1, 3, 1, 1)
    views = [torch.tensor([2.0, 0]).view(1, 2, 1, 1), torch.tensor([-1.0, 0]).view(1, 2, 1, 1)]

    def mean(average: str) -> list[float]:
        return tta(average, Flip())(by_place(*views), image, counting).flatten().tolist()

    p = [0.8807971, 0.2689414]
    assert mean("logits") == pytest.approx([0.5, 0])
    assert np.exp(mean("probabilities")) == pytest.approx([sum(p) / 2, 1 - sum(p) / 2])
    divided = 0.999 / 2 + 0.001 * sum(p) / 2  # one vote each; probabilities decide
    assert np.exp(mean("votes")) == pytest.approx([divided, 1 - divided])
    overlapping = tta("probabilities", Flip())(by_place(*views), image, Counting(2, overlapping=True))
    assert overlapping.sigmoid().flatten().tolist() == pytest.approx([sum(p) / 2, 0.5])


def test_a_vote_keeps_to_the_threshold() -> None:
    counting, image = Counting(1, overlapping=True, threshold=0.9), torch.zeros(1, 3, 1, 1)
    views = [torch.full((1, 1, 1, 1), value) for value in (2.0, 3.0)]  # sigmoids 0.88 and 0.95: one of two says yes
    assert tta("votes", Flip())(by_place(*views), image, counting).sigmoid().item() == pytest.approx(0.5, abs=1e-3)


def test_corners_that_a_turned_view_did_not_see_are_left_to_the_plain_one() -> None:
    images = torch.rand(1, 3, 24, 32) * 255

    def plain_or_else(views: Tensor) -> Tensor:
        return (
            pointwise(views)
            if torch.equal(views, images)
            else torch.full_like(views, 50.0) * torch.eye(3)[0, :, None, None]
        )

    scores = tta("logits", Rotate(degrees=[25]))(plain_or_else, images, EXCLUSIVE)
    for corner in ((0, 0), (0, -1), (-1, 0), (-1, -1)):
        torch.testing.assert_close(scores[..., *corner], pointwise(images)[..., *corner])
    torch.testing.assert_close(scores[..., 12, 16], (pointwise(images)[..., 12, 16] + torch.tensor([50.0, 0, 0])) / 2)


def test_certain_models_stay_finite() -> None:
    sure = torch.tensor([200.0, -200, -200]).view(1, 3, 1, 1).expand(2, 3, 9, 14)
    for average, counting in product(("probabilities", "logits", "votes"), (EXCLUSIVE, OVERLAPPING)):
        scores = tta(average, Flip())(lambda images: sure, IMAGES, counting)
        assert scores.isfinite().all()
        assert torch.equal(counting.predict(scores), counting.predict(sure))


def test_without_views_it_is_the_model() -> None:
    logits = pointwise(IMAGES).bfloat16()
    assert tta()(lambda images: logits, IMAGES, EXCLUSIVE) is logits


def test_half_precision_is_averaged_in_float32() -> None:
    scores = tta("probabilities", Flip())(lambda images: pointwise(images).bfloat16(), IMAGES, EXCLUSIVE)
    assert scores.dtype == torch.float32


# ---- batches of views


def test_views_of_one_size_are_seen_together() -> None:
    seen: list[tuple[int, ...]] = []

    def model(images: Tensor) -> Tensor:
        seen.append(tuple(images.shape))
        return pointwise(images)

    kinds = (Flip(), Rotate90())
    plain = tta("probabilities", *kinds, views_per_batch=1)(model, IMAGES, EXCLUSIVE)
    assert len(seen) == 8
    seen.clear()
    together = tta("probabilities", *kinds, views_per_batch=3)(model, IMAGES, EXCLUSIVE)
    assert sorted(seen) == [(2, 3, 9, 14), (2, 3, 14, 9), (6, 3, 9, 14), (6, 3, 14, 9)]
    torch.testing.assert_close(together, plain)


def test_out_of_memory_halves_the_batches_from_then_on() -> None:
    seen: list[int] = []

    def model(images: Tensor) -> Tensor:
        seen.append(len(images) // 2)
        if seen[-1] > 2:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return pointwise(images)

    views = tta("probabilities", Flip(horizontal=True, vertical=True), Scale(factors=[1, 2]), views_per_batch=8)
    views(model, IMAGES, EXCLUSIVE)
    assert seen == [4, 2, 2, 2, 2]
    seen.clear()
    views(model, IMAGES, EXCLUSIVE)
    assert seen == [2, 2, 2, 2]


def test_memory_that_does_not_do_for_one_view_is_an_error() -> None:
    def model(images: Tensor) -> Tensor:
        raise torch.OutOfMemoryError("CUDA out of memory.")

    with pytest.raises(torch.OutOfMemoryError):
        tta("probabilities", Flip())(model, IMAGES, EXCLUSIVE)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: tta("mean"), r"average=mean: probabilities, logits, votes are allowed"),
        (lambda: tta(views_per_batch=0), r"views_per_batch=0: auto is allowed, or a number from 1"),
        (lambda: Rotate(degrees=[5, 90]), r"degrees=\[5, 90\]: angles are above -90 and below 90"),
        (lambda: Shift(pixels=0), r"pixels=0: 1 or more"),
        (lambda: Scale(factors=[]), r"factors=\[\]: positive numbers"),
        (lambda: Scale(factors=[1, 0]), r"factors=\[1, 0\]: positive numbers"),
    ],
)
def test_wrong_settings_are_named(make: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()
