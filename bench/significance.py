"""Whether the statistics of tables are right: on simulated methods, of which we know how good they are.

An image has pixels of five classes, two of them rare, and is more or less hard for all methods alike; so is a group of
images (a video), to which each method also responds in its own way. Every number is a share of so many simulated
tables; of 1,000 its standard error is 0.7 points where it is near 5 %.

- no difference: how often any method is called worse than the best. ``swap`` exchanges the two methods' counts of units
  and pools again, ``bootstrap`` looks whether the paired interval leaves out 0, ``signs`` flips the units' shares of
  the difference, as segrun does; ``Holm k-1`` corrects those for the comparisons with the best, ``segrun`` for all.
- power: how often the worse of two methods, or the worst of five, is called worse.
- coverage: how often a 95 % interval holds the score on all images that there could be.
- seeds: how often methods that are equally good, but whose trained networks differ by luck, are called different.

    python bench/significance.py [TABLES]
"""

import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import expit
from statsmodels.stats.multitest import multipletests

from seg_cli.reports.statistics import Counts, Finding, analyse

RESAMPLES = 400  # intervals have more
PIXELS = 100_000
SHARES = np.array([0.4, 0.3, 0.2, 0.08, 0.02])
PRESENCE = np.array([1, 1, 0.9, 0.6, 0.3])
EASE = np.array([2.5, 2, 1.5, 1, 0.5])  # logits of the share of its pixels that is found


@dataclass(frozen=True)
class World:
    """What tables are drawn from: by how many logits each method is better, how much its results vary, and the images.

    Attributes:
        better: of each method.
        noise: standard deviation of a method's own luck with a class of an image, in logits; one, or one a method.
        images, groups: how many; 0 groups where images are independent. Groups have several sizes.
        own_groups: standard deviation of a method's own response to a group.
        seeds: trainings a method; ``luck``: standard deviation of the networks among them.
    """

    better: Sequence[float] = (0, 0)
    noise: float | Sequence[float] = 0.5
    images: int = 100
    groups: int = 0
    own_groups: float = 0.15
    seeds: int = 1
    luck: float = 0.0

    def table(self, rng: np.random.Generator) -> tuple[list[Counts], list[str] | None]:
        """The counts of each method, and the groups of the images."""
        images, classes, methods = self.images, len(SHARES), len(self.better)
        members = rng.choice(self.groups, images, p=_sizes(self.groups)) if self.groups else None
        truth = SHARES * rng.gamma(2, 0.5, (images, classes)) * (rng.random((images, classes)) < PRESENCE)
        truth *= PIXELS / np.maximum(truth.sum(1, keepdims=True), 0.1)
        hardness = rng.normal(0, 0.6, (images, 1)) + rng.normal(0, 0.4, (images, classes))
        spill = rng.dirichlet(4 * SHARES, images)  # where wrong pixels go, alike for all methods
        found = []
        if members is not None:
            hardness += rng.normal(0, 0.5, (self.groups, 1))[members]
        for better, noise in zip(self.better, np.broadcast_to(self.noise, methods), strict=True):
            shift = np.full((images, 1), better)
            if members is not None:
                shift = shift + rng.normal(0, self.own_groups, (self.groups, 1))[members]
            logits = EASE + hardness + shift + rng.normal(0, self.luck, (self.seeds, 1, 1))
            hits = truth * expit(logits + rng.normal(0, noise, (self.seeds, images, classes)))
            wrong = (truth - hits).sum(-1, keepdims=True) * spill
            found.append(Counts(np.rint(hits).astype(np.int64), np.rint(truth + wrong).astype(np.int64)))
        return found, None if members is None else [f"video{member}" for member in members]

    def truth(self, metric: str) -> list[float]:
        """The scores on very many images (and groups)."""
        many = World(self.better, self.noise, 200_000, 20_000 if self.groups else 0, self.own_groups)
        tables, _ = many.table(np.random.default_rng(99))
        return [analyse([counts], metric, groups=None, resamples=2)[0].mean for counts in tables]


def _sizes(groups: int) -> np.ndarray:
    sizes = 1 + np.arange(groups) % 3
    return sizes / sizes.sum()


def equal(noise: tuple[float, float], **settings: int) -> World:
    """Two methods of the same score of which one is steadier; found by halving."""
    low, high = -1.0, 1.0
    for _ in range(12):
        middle = (low + high) / 2
        first, second = World((0, middle), noise, **settings).truth("miou")
        low, high = (low, middle) if second > first else (middle, high)
    return World((0, (low + high) / 2), noise, **settings)


def swap(first: Counts, second: Counts, groups: list[str] | None, rng: np.random.Generator) -> float:
    """p of the exchange of two methods' counts in units."""
    members = np.arange(first.unions.shape[1]) if groups is None else np.unique(groups, return_inverse=True)[1]
    exchanged = rng.random((RESAMPLES, members.max() + 1))[:, members] < 0.5
    exchanged[0] = False
    keep = exchanged.astype(float)
    differences: list[np.ndarray] = []
    for weights in (1 - keep, keep):
        inter, union = (
            weights @ getattr(first, part)[0] + (1 - weights) @ getattr(second, part)[0]
            for part in ("intersections", "unions")
        )
        differences.append(np.nanmean(inter / np.where(union > 0, union, np.nan), 1))
    difference = np.abs(differences[0] - differences[1])
    return float((difference >= difference[0] * (1 - 1e-9)).mean())


Verdict = Callable[[list[Finding]], bool]


def by_interval(findings: list[Finding]) -> bool:
    return any(found.difference_high < 0 for found in findings if not found.best)


def by_holm(findings: list[Finding]) -> bool:
    values = [found.p for found in findings if found.p is not None]
    return bool(values) and bool(multipletests(values, method="holm")[0].any())


def by_segrun(findings: list[Finding]) -> bool:
    return any(not found.tied for found in findings)


def analysed(
    world: World, tables: int, metric: str = "miou", *, use_groups: bool = True, resamples: int = RESAMPLES
) -> list[list[Finding]]:
    rng = np.random.default_rng(7)
    found = []
    for number in range(tables):
        counts, groups = world.table(rng)
        found.append(analyse(counts, metric, groups=groups if use_groups else None, resamples=resamples, seed=number))
    return found


def share(verdict: Verdict, tables: Sequence[list[Finding]]) -> str:
    return f"{np.mean([verdict(findings) for findings in tables]):>11.1%}"


def print_no_difference(tables: int) -> None:
    print(f"\nno difference, {tables} tables: called different (5 % is right)")
    print(f"{'':<46}{'swap':>11}{'bootstrap':>11}{'signs':>11}{'Holm k-1':>11}{'segrun':>11}")
    five = (0.0,) * 5
    worlds: dict[str, tuple[World, bool]] = {
        "2 methods, 20 images": (World(images=20), True),
        "2 methods, 100 images": (World(), True),
        "2 methods, 500 images": (World(images=500), True),
        "2 methods, one steadier, 20 images": (equal((0.1, 1.0), images=20), True),
        "2 methods, one steadier, 100 images": (equal((0.1, 1.0)), True),
        "5 methods, 20 images": (World(five, images=20), True),
        "5 methods, 100 images": (World(five), True),
        "20 methods, 100 images": (World((0.0,) * 20), True),
        "2 methods, 3 groups of 100 images": (World(groups=3), True),
        "2 methods, 5 groups of 100 images": (World(groups=5), True),
        "2 methods, 6 groups of 100 images": (World(groups=6), True),
        "2 methods, 10 groups of 100 images": (World(groups=10), True),
        "2 methods, 30 groups of 300 images": (World(images=300, groups=30), True),
        "5 methods, 5 groups of 100 images": (World(five, groups=5), True),
        "5 methods, 10 groups of 100 images": (World(five, groups=10), True),
        "5 methods, 30 groups of 300 images": (World(five, images=300, groups=30), True),
        "... the same, taken as 300 images": (World(five, images=300, groups=30), False),
    }
    for name, (world, use_groups) in worlds.items():
        found = analysed(world, tables, use_groups=use_groups)
        two = len(world.better) == 2
        rng, draw = np.random.default_rng(8), np.random.default_rng(7)
        swapped = (
            [swap(*counts, groups, rng) < 0.05 for counts, groups in map(world.table, [draw] * tables)] if two else []
        )
        cells = [
            f"{np.mean(swapped):>11.1%}" if two else f"{'-':>11}",
            share(by_interval, found),
            share(lambda findings: any(one.p is not None and one.p < 0.05 for one in findings), found),
            share(by_holm, found),
            share(by_segrun, found),
        ]
        print(f"{name:<46}{''.join(cells)}", flush=True)
    # Four that are equal and one far behind: finding that one is right, any other claim is false.
    world = World((0.0, 0.0, 0.0, 0.0, -1.0))
    false = [any(not one.tied for one in findings[:4]) for findings in analysed(world, tables)]
    print(
        f"{'4 equal methods and a bad one, 100 images':<46}{'-':>11}{'-':>11}{'-':>11}{'-':>11}{np.mean(false):>11.1%}"
    )


def print_power(tables: int) -> None:
    print(f"\npower, {tables} tables: the worst is called worse, by true difference in points of mIoU")
    print(f"{'':<46}{'difference':>11}{'bootstrap':>11}{'signs':>11}{'Holm k-1':>11}{'segrun':>11}")
    for methods in (2, 5):
        for images, groups in ((100, 0), (500, 0), (100, 10)):
            for better in (-0.05, -0.1, -0.2):
                world = World((0.0,) * (methods - 1) + (better,), images=images, groups=groups)
                scores = world.truth("miou")
                found = analysed(world, tables)
                last = [[findings[-1]] for findings in found]
                plain = share(lambda one: one[0].p is not None and one[0].p < 0.05, last)
                holm = np.mean([_holm_of_last(findings) for findings in found])
                name = f"{methods} methods, {images} images" + (f" in {groups} groups" if groups else "")
                print(
                    f"{name:<46}{100 * (scores[0] - scores[-1]):>11.2f}{share(by_interval, last)}{plain}"
                    f"{holm:>11.1%}{share(by_segrun, last)}",
                    flush=True,
                )


def _holm_of_last(findings: list[Finding]) -> bool:
    values = [found.p for found in findings if found.p is not None]
    return findings[-1].p is not None and bool(multipletests(values, method="holm")[0][-1])


def print_coverage(tables: int) -> None:
    print(f"\ncoverage, {tables} tables: 95 % intervals that hold the truth (95 % is right)")
    print(f"{'':<46}{'mIoU':>11}{'difference':>11}{'rare class':>11}{'accuracy':>11}")
    for images, groups in ((20, 0), (100, 0), (500, 0), (100, 3), (100, 5), (100, 6), (100, 10), (200, 20), (500, 50)):
        world = World((0.0, -0.2), images=images, groups=groups)
        cells = []
        for metric in ("miou", "iou:4", "pixel_accuracy"):
            truth = world.truth(metric)
            found = analysed(world, tables, metric, resamples=1_000)
            cells.append(np.mean([one.low <= truth[0] <= one.high for one, _ in found]))
            if metric == "miou":
                gap = truth[1] - truth[0]
                cells.append(np.mean([_holds(findings, gap) for findings in found]))
        name = f"{images} images" + (f" in {groups} groups" if groups else "")
        print(f"{name:<46}{''.join(f'{cell:>11.1%}' for cell in cells)}", flush=True)


def _holds(findings: list[Finding], gap: float) -> bool:
    """Whether the interval of second minus first holds the gap, whichever of them was the best."""
    first, second = findings
    if first.best:
        return second.difference_low <= gap <= second.difference_high
    return first.difference_low <= -gap <= first.difference_high


def print_seeds(tables: int) -> None:
    print(f"\nseeds, {tables} tables, 2 equally good methods of 3 seeds, 100 images: called different")
    for luck in (0.0, 0.02, 0.05, 0.1):
        world = World(seeds=3, luck=luck)
        found = analysed(world, tables)
        std = np.mean([one.std for findings in found for one in findings if one.std is not None])
        print(
            f"{f'standard deviation over seeds {100 * std:.2f} points':<46}{'':>44}{share(by_segrun, found)}",
            flush=True,
        )


def print_time() -> None:
    print("\n10,000 resamples of 20 methods on 500 images with 11 classes (of other work on the machine too)")
    rng = np.random.default_rng(0)
    for seeds in (1, 3):
        truth = rng.integers(0, 20_000, (500, 11))
        tables = []
        for _ in range(20):
            hits = (truth * rng.uniform(0.5, 1, (seeds, 500, 11))).astype(np.int64)
            tables.append(Counts(hits, truth + rng.integers(0, 2_000, hits.shape)))
        for metric in ("miou", "iou:3"):
            start = time.perf_counter()
            analyse(tables, metric, groups=None)
            print(f"{f'{seeds} seeds, {metric}':<46}{time.perf_counter() - start:>9.2f} s", flush=True)


def main() -> None:
    tables = int(sys.argv[1]) if len(sys.argv) > 1 else 1_000
    print_time()
    print_no_difference(tables)
    print_coverage(max(1, tables // 2))
    print_power(max(1, tables // 4))
    print_seeds(tables)


if __name__ == "__main__":
    main()
