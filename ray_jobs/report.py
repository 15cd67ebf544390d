"""One-file HTML reports that open offline.

`Markup` is text that is already HTML; every plain string is escaped on its way in, so that a
clip's name can never become markup. Pictures and sounds are embedded as data URIs.

    html = page("Title", heading("Results"), table(["clip", "LSD"], [["a.flac", "1.23"]]))
"""

from __future__ import annotations

import base64
import html
from collections.abc import Iterable, Sequence


class Markup(str):
    """HTML that must not be escaped again."""

    __slots__ = ()


def page(title: str, *body: Markup, subtitle: str = "") -> str:
    """A whole document."""
    header = tag("header", tag("h1", title), tag("p", subtitle, class_="subtitle"))
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{html.escape(title)}</title>\n<style>{_STYLE}</style>\n</head>\n"
        f"<body>\n<main>\n{header}\n" + "\n".join(body) + "\n</main>\n</body>\n</html>\n"
    )


def tag(name: str, *children: str, **attributes: str) -> Markup:
    """One element. Plain strings are escaped; `class_` stands for the attribute `class`."""
    written = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{html.escape(value, quote=True)}"'
        for key, value in attributes.items()
    )
    return Markup(f"<{name}{written}>{_join(children)}</{name}>")


def section(heading: str, *children: str, id_: str) -> Markup:
    """A titled part of the page; `id_` lets others link to it."""
    return tag("section", tag("h2", heading), *children, id=id_)


def part(heading: str, *sections: Markup, id_: str) -> list[Markup]:
    """Sections of another page as a part of this one: their ids get `id_` before them."""
    moved = [Markup(each.replace('<section id="', f'<section id="{id_}-')) for each in sections]
    return [tag("h1", heading, id=id_, class_="part"), *moved]


def callout(kind: str, heading: str, *children: str) -> Markup:
    """A box for a verdict; `kind` is good, mixed or bad and picks its colour."""
    if kind not in ("good", "mixed", "bad"):
        raise ValueError(f"callout kind {kind!r}; use good, mixed or bad")
    return tag("div", tag("strong", heading), *children, class_=f"callout {kind}")


def tiles(numbers: Iterable[tuple[str, str, str]]) -> Markup:
    """Large numbers in a row: (name, value, note) each."""
    boxes = [
        tag(
            "div",
            tag("div", name, class_="name"),
            tag("div", value, class_="value"),
            tag("div", note, class_="note"),
            class_="tile",
        )
        for name, value, note in numbers
    ]
    return tag("div", *boxes, class_="tiles")


def table(
    header: Sequence[str],
    rows: Iterable[Sequence[str]],
    *,
    caption: str = "",
    numeric: bool = True,
) -> Markup:
    """A table; the first column is the row's name, the others are words or numbers."""
    head = tag("tr", *(tag("th", text, scope="col") for text in header))
    body = [
        tag("tr", tag("th", row[0], scope="row"), *(tag("td", text) for text in row[1:]))
        for row in rows
    ]
    parts = [tag("caption", caption)] if caption else []
    parts += [tag("thead", head), tag("tbody", *body)]
    kind = "numbers" if numeric else "words"
    return tag("div", tag("table", *parts, class_=kind), class_="scroll")


def picture(png: bytes, alt: str, *, caption: str = "") -> Markup:
    """An embedded PNG picture; `alt` says in words what it shows."""
    image = Markup(f'<img src="{_data_uri("image/png", png)}" alt="{html.escape(alt, True)}">')
    return tag("figure", image, *([tag("figcaption", caption)] if caption else []))


def audio(flac: bytes, label: str) -> Markup:
    """An embedded FLAC player with its name above it."""
    source = _data_uri("audio/flac", flac)
    player = Markup(
        f'<audio controls preload="metadata" aria-label="{html.escape(label, True)}" '
        f'src="{source}"></audio>'
    )
    return tag("div", tag("div", label, class_="name"), player, class_="player")


def details(summary: str, *children: str) -> Markup:
    """A part that opens on a click."""
    return tag("details", tag("summary", summary), *children)


def _join(children: Iterable[str]) -> str:
    return "".join(
        child if isinstance(child, Markup) else html.escape(child, quote=False)
        for child in children
    )


def _data_uri(media_type: str, content: bytes) -> str:
    return f"data:{media_type};base64,{base64.b64encode(content).decode()}"


_STYLE = """
:root { --ink: #1b232d; --soft: #5a6675; --line: #e1e6ec; --ground: #f6f8fa; --accent: #0072b2; }
* { box-sizing: border-box; }
body { margin: 0; background: var(--ground); color: var(--ink); line-height: 1.55;
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial,
  "DejaVu Sans", sans-serif; }
main { max-width: 1120px; margin: 0 auto; padding: 40px 28px 64px; }
h1 { font-size: 30px; line-height: 1.2; margin: 0 0 6px; letter-spacing: -0.01em; }
h1.part { margin: 56px 0 6px; }
h2 { font-size: 20px; margin: 0 0 14px; }
h3 { font-size: 16px; margin: 22px 0 10px; overflow-wrap: anywhere; }
p { margin: 8px 0; }
code { font: 13px/1.5 ui-monospace, "SF Mono", Menlo, Consolas, "DejaVu Sans Mono", monospace; }
pre { background: var(--ground); border: 1px solid var(--line); border-radius: 8px;
  padding: 12px 14px; overflow-x: auto; }
.subtitle, .note, figcaption, caption { color: var(--soft); }
section { background: #fff; border: 1px solid var(--line); border-radius: 12px;
  padding: 22px 26px; margin: 22px 0; }
.callout { border-radius: 12px; padding: 16px 22px; margin: 24px 0; border: 1px solid;
  border-left-width: 6px; }
.callout strong { display: block; font-size: 18px; }
.good { background: #eef8f4; border-color: #009e73; }
.mixed { background: #fdf6e7; border-color: #e69f00; }
.bad { background: #fdf1ea; border-color: #d55e00; }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(190px, 1fr)); gap: 14px; }
.tile { background: #fff; border: 1px solid var(--line); border-radius: 12px; padding: 14px 18px; }
.tile .value { font-size: 27px; font-weight: 650; font-variant-numeric: tabular-nums; }
.tile .note { font-size: 13px; }
.name { font-size: 13px; font-weight: 600; color: var(--soft); }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-size: 14px;
  font-variant-numeric: tabular-nums; }
caption { caption-side: bottom; text-align: left; padding-top: 8px; font-size: 13px; }
th, td { padding: 7px 10px; border-bottom: 1px solid var(--line); text-align: right;
  white-space: nowrap; }
thead th { color: var(--soft); font-weight: 600; border-bottom-width: 2px; }
td { vertical-align: top; }
th:first-child, .words th, .words td { text-align: left; }
.words td { white-space: normal; overflow-wrap: anywhere; }
td .note { font-size: 12px; }
tbody th { font-weight: 500; white-space: normal; overflow-wrap: break-word; }
figure { margin: 10px 0; }
img { max-width: 100%; height: auto; display: block; }
.players { display: grid; grid-template-columns: repeat(auto-fit, minmax(220px, 1fr)); gap: 12px; }
audio { width: 100%; height: 38px; margin-top: 4px; }
.pair { display: grid; gap: 14px;
  grid-template-columns: repeat(auto-fit, minmax(min(420px, 100%), 1fr)); }
dl { display: grid; grid-template-columns: minmax(160px, max-content) 1fr; gap: 4px 22px; margin: 0;
  font-size: 14px; }
dt { color: var(--soft); }
dd { margin: 0; overflow-wrap: anywhere; }
details { margin-top: 14px; }
summary { cursor: pointer; color: var(--accent); }
"""
