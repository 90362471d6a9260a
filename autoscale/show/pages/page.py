"""What every page shares: the frame, and figures inside the file.

A page is one file: styles and figures lie in it, nothing is loaded from anywhere, nothing needs a script, and every
text is escaped.
"""

from __future__ import annotations

import base64
import re
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jinja2
from matplotlib import rc_context

from analysis.errors import BadInput
from analysis.files import replacing
from analysis.numbers import known
from autoscale.show import words

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Picture:
    """A figure inside the page: `source` is a data URL, `alt` its content in words, `caption` how to read it."""

    source: str
    alt: str
    caption: str


def picture(figure: Figure, alt: str, caption: str = "") -> Picture:
    """The figure as SVG inside the page; the same data give the same bytes."""
    buffer = BytesIO()
    with rc_context({"svg.hashsalt": "llm-autoscale"}):
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    text = re.sub(r"\s*\n\s*", "\n", buffer.getvalue().decode())
    return Picture(
        f"data:image/svg+xml;base64,{base64.b64encode(text.encode()).decode()}",
        alt,
        caption,
    )


def write_page(template: str, out: Path, **content: Any) -> Path:
    """Render a template to `out` (atomically); returns the path. Raises BadInput when it cannot be written there."""
    text = _ENVIRONMENT.get_template(template).render(**content)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with replacing(out) as temporary:
            temporary.write_text(text, encoding="utf-8")
    except OSError as error:
        raise BadInput(f"cannot write the page {out}: {error.strerror}", next_step="choose --out") from None
    return out


_ENVIRONMENT = jinja2.Environment(
    loader=jinja2.FileSystemLoader(Path(__file__).parent / "templates"),
    autoescape=True,
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
_ENVIRONMENT.tests["known"] = known
_ENVIRONMENT.filters |= {
    "share": words.share,
    "number": words.number,
    "span": words.span,
    "counted": words.counted,
}
