"""One-file pages from the templates beside this file; pictures and sounds are inside them.

Every value is escaped on its way in, so that a clip's name can never become markup; a value that a
template wants and does not get is an error. A template is the body of its page, and may be a part
of another's.
"""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from ray_jobs.reports import words
from ttt.eval.differences import shown
from ttt.eval.pairs.find import task_title


def render(template: str, title: str, *, subtitle: str, **values: Any) -> str:
    """A whole document whose body is `template`, without a link to anywhere."""
    base = TEMPLATES.get_template("base.html.j2")
    made = base.render(body=template, title=title, subtitle=subtitle, **values)
    return made.replace("&#39;", "'")  # Attributes stand in double quotes: who searches finds it.


def read_pictures(folder: Path) -> dict[str, bytes]:
    """The pictures that were drawn into plots/ of a run, by name."""
    return {path.stem: path.read_bytes() for path in (folder / "plots").glob("*.png")}


def _data_uri(content: bytes, media_type: str) -> str:
    return f"data:{media_type};base64,{base64.b64encode(content).decode()}"


TEMPLATES = Environment(
    loader=PackageLoader(__package__ or ""),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
    extensions=["jinja2.ext.do"],
)
TEMPLATES.filters.update(
    cell=words.cell,
    described=words.described,
    headline=words.headline,
    data_uri=_data_uri,
    interval_words=words.interval_words,
    largest_difference=words.largest_difference,
    metric_title=words.metric_title,
    not_held=words.not_held,
    number=words.number,
    p_cells=words.p_cells,
    setting=shown,
    task_title=task_title,
    thousands="{:,}".format,
)
