"""Settings as YAML: OmegaConf reads back what was written, whatever it is."""

from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from omegaconf import OmegaConf

from seg_cli.config.yaml_text import to_yaml

TRICKY = [
    "1e-3",
    "1E5",
    "-1.5e+3",
    "1_000",
    "0x1f",
    "010",
    ".5",
    "on",
    "No",
    "null",
    "~",
    "",
    " a ",
    "2026-01-01",
    "1:30",
]
TRICKY += [
    "a: b",
    "# no",
    "*id",
    "&x",
    "[1]",
    "{}",
    "- x",
    "ä\n ö",
    "'",
    '"',
    "tab\t",
    "\\",
    "nan",
    ".inf",
    "=",
    "???x",
]
texts = st.sampled_from(TRICKY) | st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=12)
values = (
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | texts.filter(lambda text: "${" not in text)
)
names = st.from_regex(r"[a-z_]{1,6}", fullmatch=True)
settings = st.recursive(values, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(names, inner, max_size=3))


def read(text: str) -> Any:
    return OmegaConf.to_container(OmegaConf.create(text))


@given(st.dictionaries(names, settings, min_size=1, max_size=4))
def test_what_is_written_is_read_as_it_was(written: dict[str, Any]) -> None:
    assert read(to_yaml(written)) == written


def test_every_tricky_text_stays_a_text() -> None:
    assert read(to_yaml({"all": TRICKY})) == {"all": TRICKY}


def test_it_is_written_as_omegaconf_writes_it() -> None:
    shared = [1, 2]
    settings = {
        "b": {"lr": 1e-5, "on": True, "path": None, "text": "1e-3"},
        "a": [shared, shared, {"x": "${y}"}],
        "ü": [],
    }
    assert to_yaml(settings) == OmegaConf.to_yaml(OmegaConf.create(settings))
