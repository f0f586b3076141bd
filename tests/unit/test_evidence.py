"""What holds for every loss, whatever its value: void, order, batches, bounds, precision, gradients, determinism."""

from collections.abc import Callable, Iterator

import pytest
import torch
import torch.nn.functional as F
from hydra.utils import instantiate
from hypothesis import given, settings
from hypothesis import strategies as st
from loss_cases import KINDS, REGIONS, TERMS, Make, random_batch, value_and_gradient
from omegaconf import OmegaConf
from torch import Tensor

from seg_cli.config.paths import conf_dir
from seg_cli.data.labels import VOID
from seg_cli.losses import CrossEntropy, Focal, HardPixels, Sum
from seg_cli.losses.evidence import Evidence, Term, evidence_of

each_term = pytest.mark.parametrize("make", TERMS.values(), ids=TERMS.keys())
each_kind = pytest.mark.parametrize("kind", KINDS)
some_seeds = st.integers(0, 1000)
few = settings(max_examples=4, deadline=None)


def void_entries(logits: Tensor, target: Tensor) -> Tensor:
    """(N, C, H, W) whether a logit belongs to a void entry."""
    void = target == VOID
    return void if target.ndim == 4 else void.unsqueeze(1).expand_as(logits)


# ---- void


@each_term
@each_kind
@given(seed=some_seeds, share=st.floats(0, 0.9))
@few
def test_what_is_predicted_at_void_changes_neither_value_nor_gradient(
    make: Make, kind: str, seed: int, share: float
) -> None:
    logits, target = random_batch(kind, seed, void=share)
    void = void_entries(logits, target)
    noise = 50 * torch.randn(logits.shape, generator=torch.Generator().manual_seed(seed + 1))
    value, gradient = value_and_gradient(make(), logits, target)
    other_value, other_gradient = value_and_gradient(make(), logits + noise * void, target)
    assert not gradient[void].any()
    assert not other_gradient[void].any()
    torch.testing.assert_close(other_value, value)
    torch.testing.assert_close(other_gradient, gradient)


@each_term
@each_kind
def test_void_alone_gives_0_and_no_gradient(make: Make, kind: str) -> None:
    logits, target = random_batch(kind)
    value, gradient = value_and_gradient(make(), logits, torch.full_like(target, VOID))
    assert float(value) == 0
    assert not gradient.any()


@each_kind
def test_class_weights_of_0_alone_give_0_and_no_gradient(kind: str) -> None:
    """A batch may hold nothing but classes that do not count."""
    logits, target = random_batch(kind)
    if kind == "overlapping":
        target[:, 1:] = VOID
    else:
        target[target != VOID] = 0
    weights = [0, *[1] * (KINDS[kind] - 1)]
    for term in (CrossEntropy(weights=weights), Focal(weights=weights), HardPixels(weights=weights)):
        value, gradient = value_and_gradient(term, logits, target)
        assert float(value) == 0
        assert not gradient.any()


# ---- order, batches and bounds


@each_term
@each_kind
@given(data=st.data(), seed=some_seeds)
@few
def test_the_order_of_the_classes_does_not_matter(make: Make, kind: str, data: st.DataObject, seed: int) -> None:
    logits, target = random_batch(kind, seed)
    order = data.draw(st.permutations(range(KINDS[kind])))
    torch.testing.assert_close(make()(logits[:, order], in_order(target, order)), make()(logits, target))


def in_order(target: Tensor, order: list[int]) -> Tensor:
    """The target when class ``order[i]`` becomes class i."""
    if target.ndim == 4:
        return target[:, order]
    renumbered = torch.full((256,), VOID)
    renumbered[: len(order)] = torch.tensor(order).argsort()
    return renumbered[target.long()]


@each_kind
def test_class_weights_follow_their_classes(kind: str) -> None:
    logits, target = random_batch(kind)
    weights = [0.5, 3.0, 1.0, 0.0][: KINDS[kind]]
    order = list(range(KINDS[kind]))[::-1]
    turned = [weights[c] for c in order]
    for make in (CrossEntropy, Focal, HardPixels):
        expected = make(weights=weights)(logits, target)
        torch.testing.assert_close(make(weights=turned)(logits[:, order], in_order(target, order)), expected)
        assert not torch.isclose(expected, make()(logits, target))
    smoothed = CrossEntropy(weights=weights, label_smoothing=0.1)(logits, target)
    expected = CrossEntropy(weights=turned, label_smoothing=0.1)(logits[:, order], in_order(target, order))
    torch.testing.assert_close(smoothed, expected)


@each_term
@each_kind
def test_memory_order_does_not_matter(make: Make, kind: str) -> None:
    logits, target = random_batch(kind)
    channels_last = logits.contiguous(memory_format=torch.channels_last)
    value, gradient = value_and_gradient(make(), logits, target)
    found, found_gradient = value_and_gradient(make(), channels_last, target)
    torch.testing.assert_close(found, value)
    torch.testing.assert_close(found_gradient, gradient)
    wide = logits.repeat_interleave(2, 3)
    torch.testing.assert_close(make()(wide[..., ::2], target.long()), value)


def valid_entries(evidence: Evidence) -> Tensor:
    return evidence.valid.sum()


def present_pairs(evidence: Evidence) -> Tensor:
    return (evidence.true_counts > 0).sum()


def counted_pairs(evidence: Evidence) -> Tensor:
    return (evidence.valid_counts > 0).sum()


def images(evidence: Evidence) -> Tensor:
    return (evidence.true_counts.sum(1) > 0).sum()


PARTS: dict[str, Callable[[Evidence], Tensor]] = {
    **dict.fromkeys(("ce", "ce smoothed", "bce", "bce weighted", "focal", "focal sigmoid", "boundary"), valid_entries),
    **dict.fromkeys(("dice of images", "lovasz of images", "focal tversky"), present_pairs),
    "dice of all": counted_pairs,
    "generalized dice of images": images,
}
"""Losses that are a mean over parts of images, and how many such parts there are."""


@pytest.mark.parametrize("name", PARTS)
@each_kind
@given(seed=some_seeds)
@few
def test_a_batch_is_the_mean_of_its_images(name: str, kind: str, seed: int) -> None:
    logits, target = random_batch(kind, seed, void=0.6, images=4)
    target[0, ..., 2:, :] = VOID
    target[3] = VOID
    values, counts = [], []
    for image in range(4):
        one = logits[image : image + 1], target[image : image + 1]
        values.append(TERMS[name]()(*one))
        counts.append(PARTS[name](evidence_of(*one)))
    expected = sum(v * n for v, n in zip(values, counts, strict=True)) / sum(counts)
    torch.testing.assert_close(TERMS[name]()(logits, target), expected)


@pytest.mark.parametrize("make", REGIONS.values(), ids=REGIONS.keys())
@each_kind
@given(seed=some_seeds, scale=st.floats(0, 20))
@few
def test_losses_of_regions_lie_between_0_and_1(make: Make, kind: str, seed: int, scale: float) -> None:
    logits, target = random_batch(kind, seed)
    assert -1e-6 <= float(make()(scale * logits, target)) <= 1 + 1e-6


# ---- two classes


COUNT_THE_CLASSES = {
    "ce smoothed",
    "bce",
    "bce weighted",
    "bce balanced",
    "focal sigmoid",
    "dice of all",
    "jaccard of all",
}


@pytest.mark.parametrize("name", sorted(TERMS.keys() - COUNT_THE_CLASSES))
def test_two_classes_are_three_of_which_one_is_impossible(name: str) -> None:
    logits, target = random_batch("two")
    third = torch.full_like(logits[:, :1], -1e9)
    value, gradient = value_and_gradient(TERMS[name](), logits, target)
    of_three, gradient_of_three = value_and_gradient(TERMS[name](), torch.cat((logits, third), 1), target)
    torch.testing.assert_close(value, of_three)
    torch.testing.assert_close(gradient, gradient_of_three[:, :2])


def test_the_ingredients_of_two_classes_are_those_of_a_softmax() -> None:
    logits, target = random_batch("two")
    evidence = evidence_of(logits.double(), target)
    valid = (target != VOID).double()
    probs = logits.double().softmax(1) * valid.unsqueeze(1)
    truth = torch.stack([(target == c).double() for c in (0, 1)], 1)
    torch.testing.assert_close(evidence.probs, probs)
    torch.testing.assert_close(evidence.prob_sums, probs.sum((2, 3)))
    torch.testing.assert_close(evidence.intersections, (probs * truth).sum((2, 3)))
    torch.testing.assert_close(evidence.true_log_prob.exp() * valid, (probs * truth).sum(1))
    torch.testing.assert_close(evidence.doubt, valid - (probs * truth).sum(1))


# ---- precision and gradients


@each_term
@each_kind
def test_gradients_are_those_of_the_values(make: Make, kind: str) -> None:
    logits, target = random_batch(kind)
    leaf, target = logits[..., :3, :3].double().requires_grad_(), target[..., :3, :3]
    assert torch.autograd.gradcheck(lambda x: make()(x, target), leaf)


@each_term
@each_kind
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_computed_in_float32(make: Make, kind: str, dtype: torch.dtype) -> None:
    logits, target = random_batch(kind)
    value, gradient = value_and_gradient(make(), logits.to(dtype), target)
    expected, expected_gradient = value_and_gradient(make(), logits.to(dtype).float(), target)
    assert (value.dtype, gradient.dtype) == (torch.float32, dtype)
    torch.testing.assert_close(value, expected)
    torch.testing.assert_close(gradient, expected_gradient.to(dtype))


@each_term
@each_kind
def test_autocast_does_not_reach_into_a_loss(make: Make, kind: str) -> None:
    """Some of PyTorch's sums of products are among what it turns into half precision."""

    def under_autocast(logits: Tensor, target: Tensor) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            total, values = Sum({"term": make()}, {"term": 1.0})(logits, target)
            assert torch.equal(values["term"], make()(logits, target))
        return total

    batch = random_batch(kind)
    torch.testing.assert_close(value_and_gradient(under_autocast, *batch), value_and_gradient(make(), *batch))


@each_term
@each_kind
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize("confidence", [80.0, 1e4])
def test_certainty_right_or_wrong_is_finite(make: Make, kind: str, dtype: torch.dtype, confidence: float) -> None:
    target = random_batch(kind, void=0)[1]
    truth = target if kind == "overlapping" else F.one_hot(target.long(), KINDS[kind]).permute(0, 3, 1, 2)
    values = []
    for sign in (1, -1):
        value, gradient = value_and_gradient(make(), (sign * confidence * (2.0 * truth - 1)).to(dtype), target)
        assert value.isfinite()
        assert gradient.isfinite().all()
        values.append(float(value))
    right, wrong = values
    assert right < 0.01 < wrong or (right < wrong and getattr(make(), "label_smoothing", 0))


# ---- determinism


@pytest.fixture
def deterministic() -> Iterator[None]:
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


@each_term
@each_kind
@pytest.mark.usefixtures("deterministic")
def test_nothing_refuses_to_be_deterministic(make: Make, kind: str) -> None:
    batch = random_batch(kind)
    for first, second in zip(value_and_gradient(make(), *batch), value_and_gradient(make(), *batch), strict=True):
        assert torch.equal(first, second)


LOSS_FILES = sorted(path.stem for path in (conf_dir() / "loss").glob("*.yaml"))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="torch finds no CUDA device")
@pytest.mark.parametrize("kind", ["exclusive", "two", "overlapping"])
@pytest.mark.parametrize("name", [*LOSS_FILES, "label smoothing"])
@pytest.mark.usefixtures("deterministic")
def test_a_gpu_gives_the_same_bits_twice(name: str, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    loss = (
        CrossEntropy(label_smoothing=0.1)
        if name == "label smoothing"
        else instantiate(OmegaConf.load(conf_dir() / "loss" / f"{name}.yaml"))
    ).cuda()
    logits, target = random_batch(kind)
    logits, target = logits.repeat(1, 1, 40, 40), target.repeat_interleave(40, -1).repeat_interleave(40, -2)

    def scalar(logits: Tensor, target: Tensor) -> Tensor:
        # The first class stands in for the edges that some losses want of a model.
        return loss(logits, target) if isinstance(loss, Term) else loss(logits, target, logits[:, :1])[0]

    on_gpu = logits.cuda(), target.cuda()
    first, second = value_and_gradient(scalar, *on_gpu), value_and_gradient(scalar, *on_gpu)
    assert torch.equal(first[0], second[0])
    assert torch.equal(first[1], second[1])
    on_cpu = value_and_gradient(scalar, logits, target)
    torch.testing.assert_close(first[0].cpu(), on_cpu[0], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(first[1].cpu(), on_cpu[1], rtol=1e-3, atol=1e-7)
