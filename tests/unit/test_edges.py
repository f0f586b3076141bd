"""The losses of edges: values by hand, void, bounds, gradients, and what happens without edges."""

import math

import pytest
import torch
from torch import Tensor

from seg_cli.data.labels import VOID
from seg_cli.errors import UserError
from seg_cli.losses import CrossEntropy, Sum
from seg_cli.losses.edges import DualTask, EdgeLoss, steepness, true_edges
from seg_cli.losses.evidence import Term, evidence_of

TERMS: dict[str, Term] = {"edge": EdgeLoss(), "dual_task": DualTask()}
each_term = pytest.mark.parametrize("term", TERMS.values(), ids=TERMS.keys())


def batch(seed: int = 0, size: int = 24, classes: int = 3, void: bool = True) -> tuple[Tensor, Tensor, Tensor]:
    """Logits, a mask of four blocks with a void corner, and edges."""
    generator = torch.Generator().manual_seed(seed)
    half = size // 2
    target = torch.zeros(2, size, size, dtype=torch.uint8)
    target[:, :half, half:], target[:, half:, :half] = 1, 2
    if void:
        target[:, -4:, -4:] = VOID
    logits = 2 * torch.randn(2, classes, size, size, generator=generator)
    return logits, target, 2 * torch.randn(2, 1, size, size, generator=generator)


def value(term: Term, logits: Tensor, target: Tensor, edges: Tensor | None) -> Tensor:
    return term.compute(evidence_of(logits, target, edges))


# ---- true edges and the edge loss


def test_true_edges_lie_on_both_sides_of_a_change_and_not_near_void() -> None:
    target = torch.tensor([[[0, 0, 0, 1, 1, 1, 1, VOID]]], dtype=torch.uint8).expand(1, 3, 8)
    edges, known = true_edges(target, 1)
    assert edges[0, 0, 1].int().tolist() == [0, 0, 1, 1, 0, 0, 0, 0]
    assert known[0, 0, 1].int().tolist() == [1, 1, 1, 1, 1, 1, 0, 0]
    edges, known = true_edges(target, 2)
    assert edges[0, 0, 1].int().tolist() == [0, 1, 1, 1, 1, 0, 0, 0]
    assert known[0, 0, 1].int().tolist() == [1, 1, 1, 1, 1, 0, 0, 0]


def test_an_edge_is_known_across_a_line_of_void_that_the_width_spans() -> None:
    """The pixels beside the line; the line itself, and those that see one label and void, do not count."""
    target = torch.tensor([[[0, 0, 0, 0, VOID, 1, 1, 1, 1]]], dtype=torch.uint8).expand(1, 3, 9)
    edges, known = true_edges(target, 2)
    assert (edges & known)[0, 0, 1].int().tolist() == [0, 0, 0, 1, 0, 1, 0, 0, 0]
    assert known[0, 0, 1].int().tolist() == [1, 1, 0, 1, 0, 1, 0, 1, 1]
    assert not (torch.logical_and(*true_edges(target, 1))).any()
    assert not true_edges(torch.full((1, 3, 3), VOID), 1)[0].any()


def test_edges_are_diagonal_too() -> None:
    target = torch.zeros(1, 5, 5, dtype=torch.uint8)
    target[0, 0, 0] = 1
    assert true_edges(target, 1)[0][0, 0].nonzero().tolist() == [[0, 0], [0, 1], [1, 0], [1, 1]]


def test_the_edge_loss_by_hand() -> None:
    """8 pixels, of which 2 are edges: an edge weighs 3/4 and another pixel 1/4."""
    target = torch.tensor([[[0, 0, 0, 0, 1, 1, 1, 1]]], dtype=torch.uint8)
    edges = torch.tensor([[[[-1.0, 0, 2, 1, 3, -2, 0, -1]]]], dtype=torch.float64)
    p = edges.sigmoid().flatten().tolist()
    of_edges = -sum(math.log(p[i]) for i in (3, 4))
    of_others = -sum(math.log(1 - p[i]) for i in (0, 1, 2, 5, 6, 7))
    found = value(EdgeLoss(width=1), torch.zeros(1, 2, 1, 8, dtype=torch.float64), target, edges)
    assert float(found) == pytest.approx((0.75 * of_edges + 0.25 * of_others) / 8)


def test_edges_of_labels_that_overlap_are_those_of_any_label() -> None:
    target = torch.zeros(1, 2, 1, 8, dtype=torch.uint8)
    target[0, 0, 0, 6:], target[0, 1, 0, :2] = 1, 1
    assert true_edges(target, 1)[0].flatten().int().tolist() == [0, 1, 1, 0, 0, 1, 1, 0]
    target[0, 1, 0, 3] = VOID
    assert true_edges(target, 1)[1].flatten().int().tolist() == [1, 1, 1, 0, 0, 1, 1, 1]


def test_perfect_edges_cost_next_to_nothing_and_a_width_makes_them_wider() -> None:
    logits, target, _ = batch()
    perfect = 40 * (true_edges(target, 2)[0].float() - 0.5)
    assert float(value(EdgeLoss(width=2), logits, target, perfect)) < 1e-6
    assert float(value(EdgeLoss(width=1), logits, target, perfect)) > 0.1


# ---- the dual task


def test_steepness_beside_a_straight_boundary() -> None:
    """The smoothed step rises there by half of two neighbouring taps, in both of two classes."""
    step = (torch.arange(20) >= 10).double().view(1, 1, 1, 20).expand(1, 1, 6, 20)
    taps = torch.exp(-torch.arange(-3.0, 4).square() / 2)
    expected = float((taps[3] + taps[4]) / taps.sum() / 2)
    found = steepness(torch.cat((step, 1 - step), 1), 1.0)[0, 0]
    torch.testing.assert_close(found[:, 9:11], torch.full((6, 2), expected).double(), rtol=1e-5, atol=1e-6)
    assert expected == pytest.approx(0.32, abs=0.005)
    assert found[:, :5].max() < 1e-5


def test_steepness_is_that_of_a_ramp() -> None:
    ramp = 0.02 * torch.arange(30).view(1, 1, 1, 30).expand(1, 1, 9, 30).double()
    maps = torch.cat((ramp, 1 - ramp), 1)
    torch.testing.assert_close(steepness(maps, 1.5)[0, 0, :, 6:-6], torch.full((9, 18), 0.02).double())
    torch.testing.assert_close(steepness(maps.mT, 1.5)[0, 0, 6:-6].mT, torch.full((9, 18), 0.02).double())


def test_beside_void_a_right_prediction_costs_nothing_and_a_wrong_one_something() -> None:
    _, target, _ = batch(void=False)
    right = 60.0 * torch.nn.functional.one_hot(target.long(), 3).movedim(-1, 1)
    target[:, 11:13], target[:, :, 11:13] = VOID, VOID  # along every boundary
    term = DualTask(sigma=1)
    assert float(term.boundaries(evidence_of(right, target))) < 1e-4
    assert float(term.boundaries(evidence_of(right.flip(1), target))) < 1e-4  # as steep, of other classes
    assert float(term.boundaries(evidence_of(torch.zeros_like(right), target))) > 0.05


def test_right_boundaries_cost_nothing_and_missing_or_false_ones_their_height() -> None:
    _, target, _ = batch(void=False)
    right = 60.0 * torch.nn.functional.one_hot(target.long(), 3).movedim(-1, 1)
    term = DualTask(sigma=1)
    assert float(term.boundaries(evidence_of(right, target))) < 1e-4
    missing = float(term.boundaries(evidence_of(torch.zeros_like(right), target)))
    one_class = torch.zeros_like(target)
    false = float(term.boundaries(evidence_of(right, one_class)))
    assert missing == pytest.approx(false, rel=1e-3)
    assert 0.15 < missing < 0.35


def test_the_edges_choose_the_pixels_of_the_cross_entropy() -> None:
    logits, target, _ = batch()
    chosen = torch.zeros(2, 24, 24, dtype=torch.bool)
    chosen[:, 5:7, 3:] = True
    edges = torch.where(chosen, 1.5, 1.3).unsqueeze(1)  # probabilities of 0.82 and 0.79
    found = DualTask().at_edges(evidence_of(logits, target), edges)
    expected = CrossEntropy()(logits, torch.where(chosen, target, VOID))
    torch.testing.assert_close(found, expected)
    assert float(DualTask(edge_threshold=0.9).at_edges(evidence_of(logits, target), edges)) == 0


def test_the_dual_task_is_the_sum_of_its_two_ways_and_repeats() -> None:
    logits, target, edges = batch()
    term, evidence = DualTask(), evidence_of(logits, target, edges)
    torch.testing.assert_close(term.compute(evidence), term.boundaries(evidence) + term.at_edges(evidence, edges))
    assert torch.equal(value(term, logits, target, edges), value(term, logits, target, edges))


@pytest.mark.parametrize("seed", range(5))
def test_bounds(seed: int) -> None:
    logits, target, edges = batch(seed)
    assert float(value(EdgeLoss(), logits, target, edges)) >= 0
    for scale in (0.0, 1.0, 1e4):
        evidence = evidence_of(scale * logits, target)
        assert 0 <= float(DualTask(sigma=0.3).boundaries(evidence)) <= math.sqrt(0.5)


# ---- what every term keeps


@each_term
def test_void_changes_neither_value_nor_gradients(term: Term) -> None:
    logits, target, edges = batch()
    void = (target == VOID).unsqueeze(1)
    found = []
    for variant in (logits, logits + 50 * torch.randn_like(logits) * void):
        leaves = (variant.clone().requires_grad_(), (edges + (9 * void if variant is not logits else 0)).clone())
        leaves[1].requires_grad_()
        loss = value(term, leaves[0], target, leaves[1])
        (loss + 0 * sum(leaf.sum() for leaf in leaves)).backward()
        assert all(leaf.grad is not None and not (leaf.grad * void).any() for leaf in leaves)
        found.append((loss, *(leaf.grad for leaf in leaves)))
    for before, after in zip(*found, strict=True):
        torch.testing.assert_close(before, after)


@each_term
def test_void_alone_gives_0(term: Term) -> None:
    logits, target, edges = batch()
    assert float(value(term, logits, torch.full_like(target, VOID), edges)) == 0


@each_term
def test_gradients_are_those_of_the_values(term: Term) -> None:
    logits, target, edges = (tensor[..., 6:18, 6:18] for tensor in batch(void=False))
    leaves = (logits[:1].double().requires_grad_(), edges[:1].double().requires_grad_())
    assert torch.autograd.gradcheck(lambda x, e: value(term, x, target[:1], e), leaves)


@each_term
def test_half_precision_is_computed_in_float32(term: Term) -> None:
    logits, target, edges = batch()
    logits, edges = logits.bfloat16(), edges.bfloat16()
    expected = value(term, logits.float(), target, edges.float())
    with torch.autocast("cpu", torch.bfloat16):
        found = value(term, logits, target, edges)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, expected)


@each_term
def test_certainty_right_or_wrong_is_finite(term: Term) -> None:
    logits, target, edges = batch()
    leaves = (1e4 * logits).requires_grad_(), (1e4 * edges).requires_grad_()
    loss = value(term, leaves[0], target, leaves[1])
    loss.backward()
    assert loss.isfinite()
    assert all(leaf.grad is None or leaf.grad.isfinite().all() for leaf in leaves)


@each_term
def test_labels_that_overlap(term: Term) -> None:
    logits, target, edges = batch(void=False)
    yes = torch.stack([target == index for index in range(3)], 1).to(torch.uint8)
    yes[0, 1, :3, :3] = VOID
    leaf = logits.clone().requires_grad_()
    loss = value(term, leaf, yes, edges.requires_grad_())
    loss.backward()
    assert float(loss.detach()) > 0
    assert leaf.grad is None or not (leaf.grad * (yes == VOID)).any()


# ---- without edges


@pytest.mark.parametrize("name", TERMS)
def test_a_model_without_edges_is_an_error_in_training_and_0_in_evaluation(name: str) -> None:
    logits, target, _ = batch()
    loss = Sum({"ce": CrossEntropy(), name: TERMS[name]}, {"ce": 1.0, name: 20.0})
    with pytest.raises(UserError, match=rf"loss\.terms\.{name}: it needs a model that finds edges.*model=gscnn"):
        loss.train()(logits, target)
    total, terms = loss.eval()(logits, target)
    loss.train()
    torch.testing.assert_close(total, CrossEntropy()(logits, target))
    assert float(terms[name]) == 0


@each_term
def test_edges_of_another_shape_are_refused(term: Term) -> None:
    logits, target, edges = batch()
    with pytest.raises(ValueError, match=r"edges are \(N, 1, H, W\) logits"):
        value(term, logits, target, edges[..., :-1])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: EdgeLoss(width=0), "width=0: it must be a whole number of 1 or more"),
        (lambda: EdgeLoss(width=1.5), "width=1.5: it must be a whole number"),  # type: ignore[arg-type]
        (lambda: DualTask(sigma=0), "sigma=0: it must be a number above 0"),
        (lambda: DualTask(edge_threshold=1.2), "edge_threshold=1.2: it must be a number 0 or more and at most 1"),
        (lambda: DualTask(boundary_threshold=-1), "boundary_threshold=-1"),
    ],
)
def test_wrong_settings_are_named(make: type[Term], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()
