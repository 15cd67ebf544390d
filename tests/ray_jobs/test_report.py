"""The page builder escapes everything and embeds everything."""

import base64
from html.parser import HTMLParser

import pytest

from ray_jobs import report


class _Collector(HTMLParser):
    """Tags with their attributes, and the text between them; checks that tags nest."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in ("meta", "img", "br", "link"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def parse(html: str) -> _Collector:
    collector = _Collector()
    collector.feed(html)
    collector.close()
    assert not collector.open
    return collector


EVIL = '<script>alert("x")</script>&amp;\'"'


def test_every_string_is_escaped_wherever_it_comes_in() -> None:
    page = report.page(
        EVIL,
        report.section(EVIL, report.tag("p", EVIL, title=EVIL), id_="part"),
        report.callout("good", EVIL, report.tag("p", EVIL)),
        report.tiles([(EVIL, EVIL, EVIL)]),
        report.table([EVIL, EVIL], [[EVIL, EVIL]], caption=EVIL),
        report.picture(b"\x89PNG", EVIL, caption=EVIL),
        report.audio(b"fLaC", EVIL),
        report.details(EVIL, report.tag("p", EVIL)),
        subtitle=EVIL,
    )
    parsed = parse(page)
    assert not [tag for tag, _ in parsed.tags if tag == "script"]
    assert sum(text == EVIL for text in parsed.text) == 19
    assert {"title": EVIL} in [attributes for _, attributes in parsed.tags]
    assert [a["alt"] for tag, a in parsed.tags if tag == "img"] == [EVIL]


def test_pictures_and_sounds_are_inside_the_page() -> None:
    picture, sound = bytes(range(256)), b"fLaC" * 10
    parsed = parse(report.page("t", report.picture(picture, "p"), report.audio(sound, "s")))
    sources = [attributes["src"] for _, attributes in parsed.tags if "src" in attributes]
    assert len(sources) == 2
    kinds = [source.split(";base64,")[0] for source in sources]
    assert kinds == ["data:image/png", "data:audio/flac"]
    decoded = [base64.b64decode(source.split(",")[1]) for source in sources]
    assert decoded == [picture, sound]


def test_markup_is_not_escaped_twice_and_kinds_are_checked() -> None:
    assert report.tag("p", report.tag("b", "a & b")) == "<p><b>a &amp; b</b></p>"
    assert report.tag("p", "x", class_="note", data_kind="k") == (
        '<p class="note" data-kind="k">x</p>'
    )
    with pytest.raises(ValueError, match="callout kind 'great'; use good, mixed or bad"):
        report.callout("great", "x")
