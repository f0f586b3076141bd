"""One HTML file that holds all that it shows: filled templates, style, scripts, pictures and the plotting library.

A policy in its head lets it fetch nothing, and run no script but those whose hashes stand there: whatever a user's
names hold, it is shown and never executed.
"""

import base64
import gzip
import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from seg_cli import __version__

_FOLDER = Path(__file__).parent / "html"
_SCRIPTS = ("charts.js", "page.js", "gallery.js", "runs.js")
_TYPES = {".png": "image/png", ".jpg": "image/jpeg"}
NOTHING = "–"


@dataclass(frozen=True)
class Cell:
    """What stands in a table.

    Attributes:
        text: to be read.
        value: to sort by; the text where it is None.
        bold: whether it stands out.
    """

    text: str
    value: float | None = None
    bold: bool = False


@dataclass(frozen=True)
class Table:
    """A table of a page.

    Attributes:
        caption: says what it is, to those who do not see it.
        headings: of the columns.
        rows: as many cells as headings.
        text: how many columns at the left hold text; numbers in the others are aligned at the right.
        sortable: whether its headings are buttons.
    """

    caption: str
    headings: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    text: int = 1
    sortable: bool = True


def render(template: str, *, data: Mapping[str, Any], **context: Any) -> str:
    """A page.

    Args:
        template: its name in ``html/``.
        data: what its scripts read: JSON.
        context: what the template shows; every text is escaped.
    """
    scripts = [(_FOLDER / name).read_text(encoding="utf-8") for name in _SCRIPTS]
    plotly, plotly_hash = _plotly()
    hashes = [*map(_hash, scripts), plotly_hash]
    policy = "; ".join(
        (
            "default-src 'none'",
            "img-src data:",
            "style-src 'unsafe-inline'",
            f"script-src {' '.join(hashes)}",
            "base-uri 'none'",
            "form-action 'none'",
        )
    )
    made = datetime.now().astimezone().strftime("%Y-%m-%d %H:%M")
    return (
        _environment()
        .get_template(template)
        .render(
            **context,
            style=Markup((_FOLDER / "report.css").read_text(encoding="utf-8")),
            scripts=[Markup(script) for script in scripts],
            plotly=plotly,
            policy=policy,
            data=to_script(data),
            made=f"Made {made} by segrun {__version__}",
        )
    )


def to_script(value: Mapping[str, Any]) -> Markup:
    """JSON that may stand in a script element: nothing in it can end the element."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    for letter in "<>&\u2028\u2029":
        text = text.replace(letter, f"\\u{ord(letter):04x}")
    return Markup(text)


def data_uri(path: Path) -> str:
    """A picture as an address that holds it. Raises OSError if it cannot be read."""
    return f"data:{_TYPES[path.suffix]};base64,{base64.b64encode(path.read_bytes()).decode()}"


def number(value: float | None, digits: int = 3) -> Cell:
    """A number, or a dash where there is none."""
    if not isinstance(value, int | float) or math.isnan(value):
        return Cell(NOTHING)
    return Cell(f"{value:.{digits}f}".replace("-", "−"), float(value))


def percent(value: float | None) -> Cell:
    return Cell(f"{value:.1%}", value) if isinstance(value, int | float) else Cell(NOTHING)


def count(value: float | None) -> Cell:
    return Cell(f"{value:,.0f}", value) if isinstance(value, int | float) else Cell(NOTHING)


def duration(seconds: float | None) -> str:
    if not isinstance(seconds, int | float):
        return NOTHING
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{seconds:.1f} s"


def mapping(value: object) -> Mapping[str, Any]:
    """A value of a file that should be one; empty where it is not."""
    return value if isinstance(value, Mapping) else {}


def when(text: object) -> str:
    """A time of status.json, to the minute."""
    try:
        return datetime.fromisoformat(str(text)).strftime("%Y-%m-%d %H:%M")
    except ValueError:
        return str(text or NOTHING)


@cache
def _environment() -> Environment:
    return Environment(
        loader=FileSystemLoader(_FOLDER),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


@cache
def _plotly() -> tuple[str, str]:
    """The plotting library, compressed (5 MB would be most of a page), as base64; and its hash."""
    from plotly.offline import get_plotlyjs

    text = get_plotlyjs()
    return base64.b64encode(gzip.compress(text.encode(), 9, mtime=0)).decode(), _hash(text)


def _hash(script: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'"
