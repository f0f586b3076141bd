"""Pictures of tables: whatever the methods are called and wherever they lie, and what the pictures say."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from matplotlib.text import Annotation
from PIL import Image

from seg_cli.reports import figures_tables
from seg_cli.reports.figures_tables import Point, _cliques, _front, critical_difference, speed_quality
from seg_cli.reports.statistics import Ranking, rank_scores

pytestmark = pytest.mark.filterwarnings("error")

ODD_NAMES = ("$x_", "[red]", "道路", "a/b", "n" * 90)


def named(count: int) -> list[str]:
    return [f"{ODD_NAMES[i % 5]}{i}" for i in range(count)]


def points(count: int, *, spread: float = 1.0) -> list[Point]:
    rng = np.random.default_rng(0)
    speeds, scores = np.exp(rng.normal(3, spread, count)), rng.normal(0.7, 0.1 * spread, count)
    return [
        Point(name, float(speed), float(quality), float(quality) - 0.02, float(quality) + 0.02)
        for name, speed, quality in zip(named(count), speeds, scores, strict=True)
    ]


def is_drawn(path: Path) -> bool:
    with Image.open(path) as image:
        return bool(np.asarray(image).std() > 1)


@pytest.mark.parametrize("count", [2, 3, 20])
def test_critical_differences_of_odd_names_are_drawn(tmp_path: Path, count: int) -> None:
    ranking = rank_scores(np.random.default_rng(0).normal(size=(30, count)))
    assert ranking is not None
    path = tmp_path / "cd.png"
    critical_difference(named(count), ranking, path, title="IoU of $x on test", units="images")
    assert is_drawn(path)


def test_equal_ranks_and_a_critical_difference_wider_than_the_line_are_drawn(tmp_path: Path) -> None:
    ranking = Ranking(ranks=(2.0, 2.0, 2.0), units=2, p=1.0, critical=9.9)
    critical_difference(["a", "b", "c"], ranking, tmp_path / "cd.png", title="mIoU on test", units="groups")
    assert is_drawn(tmp_path / "cd.png")


def test_bars_are_over_the_longest_runs_within_the_critical_difference() -> None:
    assert _cliques([1.0, 1.5, 2.5, 4.0], 1.6) == [(0, 2), (2, 3)]
    assert _cliques([1.0, 1.5, 2.5, 4.0], 0.2) == []
    assert _cliques([1.0, 2.0, 3.0], 5.0) == [(0, 2)]


@pytest.mark.parametrize(("count", "spread"), [(1, 1.0), (3, 0.01), (20, 1.0), (12, 0.02)])
def test_speed_and_quality_are_drawn(tmp_path: Path, count: int, spread: float) -> None:
    speed_quality(points(count, spread=spread), tmp_path / "speed.png", metric="IoU of $x on test", hardware="CPU_$1")
    assert is_drawn(tmp_path / "speed.png")


def test_names_do_not_cover_one_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = []
    monkeypatch.setattr(figures_tables, "save", lambda figure, path: kept.append(figure))
    plain = [replace(point, name=f"method number {i}") for i, point in enumerate(points(12))]
    speed_quality(plain, tmp_path / "speed.png", metric="mIoU on test")
    [figure] = kept
    figure.canvas.draw()
    texts = [child for child in figure.axes[0].get_children() if isinstance(child, Annotation) and child.get_text()]
    assert len(texts) == 12
    boxes = [text.get_window_extent() for text in texts]
    assert not any(a.overlaps(b) for i, a in enumerate(boxes) for b in boxes[:i])


def test_the_front_is_what_no_other_beats_in_both() -> None:
    at = [(10, 0.5), (20, 0.6), (5, 0.7), (20, 0.4), (30, 0.1), (20, 0.6)]
    assert _front([Point("", speed, quality, 0, 1) for speed, quality in at]) == {1, 2, 4, 5}


def test_methods_without_a_speed_or_a_score_are_left_out(tmp_path: Path) -> None:
    nan = float("nan")
    speed_quality([Point("a", nan, 0.5, nan, nan), Point("b", 3, nan, nan, nan)], tmp_path / "none.png", metric="mIoU")
    speed_quality([Point("a", nan, 0.5, nan, nan), Point("b", 3, 0.4, nan, nan)], tmp_path / "one.png", metric="mIoU")
    assert is_drawn(tmp_path / "none.png")
    assert is_drawn(tmp_path / "one.png")


def test_a_pdf_is_written_where_its_name_says_so_and_is_the_same_each_time(tmp_path: Path) -> None:
    ranking = Ranking(ranks=(1.2, 1.8), units=20, p=0.01, critical=0.4)
    for name in ("one.pdf", "two.pdf"):
        critical_difference(["道路", "$b"], ranking, tmp_path / name, title="mIoU on test", units="images")
    speed_quality(points(3), tmp_path / "speed.pdf", metric="mIoU on test")
    assert (tmp_path / "one.pdf").read_bytes() == (tmp_path / "two.pdf").read_bytes()
    assert all(path.read_bytes().startswith(b"%PDF") for path in tmp_path.iterdir())
