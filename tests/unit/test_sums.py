"""The grammar of sums, and what is said about sums that are none."""

from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import ConfigCompositionException, MissingConfigException
from hypothesis import given
from hypothesis import strategies as st

from seg_cli.config import sums
from seg_cli.config.paths import conf_dir
from seg_cli.config.sums import Term, parse

names = st.from_regex(r"[a-z][a-z0-9_]{0,8}", fullmatch=True)
weights = st.none() | st.floats(min_value=0, max_value=1e6).map(lambda number: float(f"{number:.6f}"))


@given(st.lists(st.builds(Term, names, weights), min_size=1, max_size=5, unique_by=lambda term: term.name))
def test_what_is_written_is_read(terms: list[Term]) -> None:
    texts = [term.name if term.weight is None else f"{term.weight:.6f}*{term.name}" for term in terms]
    assert parse("loss", "+".join(texts)) == terms
    assert parse("loss", " + ".join(texts)) == terms


@pytest.mark.parametrize(
    ("group", "expression", "message"),
    [
        ("loss", "ce+", "a term is missing"),
        ("loss", "+ce", "a term is missing"),
        ("loss", "ce++dice", "a term is missing"),
        ("loss", "2*", "a term is missing"),
        ("loss", "ce+dice+ce", "'ce' stands there more than once. Write 2*ce instead."),
        ("augment", "flip+flip", "'flip' stands there more than once."),
        ("loss", "x*dice", "the weight 'x' is not a number"),
        ("loss", "dice*2", "the weight 'dice' is not a number"),
        ("loss", "*dice", "the weight '' is not a number"),
        ("loss", "2*3*dice", "the weight '2*3' is not a number"),
        ("loss", "-1*dice", "the weight -1 of 'dice' is not a finite number >= 0"),
        ("loss", "inf*dice", "the weight inf of 'dice' is not a finite number >= 0"),
        ("loss", "nan*dice", "the weight nan of 'dice' is not a finite number >= 0"),
        ("augment", "2*flip", "only a loss takes weights. Write 'flip' without '2*'."),
    ],
)
def test_sums_that_are_none(group: str, expression: str, message: str) -> None:
    with pytest.raises(ConfigCompositionException) as raised:
        parse(group, expression)
    assert str(raised.value).startswith(f"{group}={expression}: {message}")


def compose_real(*overrides: str, extra: Path | None = None):
    sums.register()
    GlobalHydra.instance().clear()
    search_path = [f"hydra.searchpath=[file://{extra}]"] if extra else []
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        return compose("train", [*overrides, *search_path])


def test_the_shipped_groups_take_sums() -> None:
    cfg = compose_real("loss=ce+2*dice", "augment=flip+color", "logger=csv+tensorboard")
    assert list(cfg.loss.terms) == ["ce", "dice"]
    assert cfg.loss["weights"] == {"ce": 1.0, "dice": 2.0}
    assert list(cfg.augment.steps) == ["flip", "color"]
    assert list(cfg.logger) == ["csv", "tensorboard"]


def test_an_unknown_term_is_an_unknown_choice() -> None:
    with pytest.raises(MissingConfigException) as raised:
        compose_real("loss=ce+2*diec")
    assert raised.value.missing_cfg_file == "loss/diec"
    assert "dice" in (raised.value.options or [])


def test_a_file_with_several_terms_takes_no_weight(tmp_path: Path) -> None:
    (tmp_path / "loss").mkdir()
    (tmp_path / "loss" / "both.yaml").write_text("weights: {ce: 1.0, dice: 3.0}\n")
    assert compose_real("loss=ce+dice+both", extra=tmp_path).loss["weights"] == {"ce": 1.0, "dice": 3.0}
    with pytest.raises(ConfigCompositionException, match="'both' takes no weight"):
        compose_real("loss=2*both", extra=tmp_path)
