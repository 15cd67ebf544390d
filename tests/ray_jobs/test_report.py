"""Templates escape everything, embed everything, and want every value that they name."""

import base64
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest
from jinja2 import ChoiceLoader, DictLoader, UndefinedError

from ray_jobs.reports import page

ROOT = Path(__file__).resolve().parents[2]


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


NAMES = "callout, details, fact, figure, note, player, row, section, table, tile"
PARTS = f"{{% from 'parts.html.j2' import {NAMES} %}}"


def rendered(body: str, **values: object) -> str:
    """A page of which `body` is the template."""
    templates = page.TEMPLATES.overlay(cache_size=0)
    own = DictLoader({"body": PARTS + body})
    templates.loader = ChoiceLoader([own, page.TEMPLATES.loader])  # type: ignore[list-item]
    values = {"title": "t", "subtitle": "", **values}
    return templates.get_template("base.html.j2").render(body="body", **values)


def test_every_string_is_escaped_wherever_it_comes_in() -> None:
    body = """
    {% call section(x, "part") %}<p title="{{ x }}">{{ x }}</p>{% endcall %}
    {{ callout("good", x, [x]) }}
    {{ tile(x, x, x) }}
    {% call table([x, x]) %}{{ row(x, x, (x, x)) }}{% endcall %}
    {{ figure(png, x, x) }}
    {{ player(png, x) }}
    {% call details(x) %}<p>{{ x }}</p>{% endcall %}
    {% call note() %}{{ x }}{% endcall %}
    {{ fact(x, x) }}
    """
    parsed = parse(rendered(body, x=EVIL, png=b"\x89PNG", title=EVIL, subtitle=EVIL))
    assert not [tag for tag, _ in parsed.tags if tag == "script"]
    assert sum(text == EVIL for text in parsed.text) == 23
    assert {"title": EVIL} in [attributes for _, attributes in parsed.tags]
    assert [a["alt"] for tag, a in parsed.tags if tag == "img"] == [EVIL]
    assert [a["aria-label"] for tag, a in parsed.tags if tag == "audio"] == [EVIL]


def test_pictures_and_sounds_are_inside_the_page() -> None:
    picture, sound = bytes(range(256)), b"fLaC" * 10
    body = """{{ figure(picture, "p") }}{{ player(sound, "s") }}"""
    parsed = parse(rendered(body, picture=picture, sound=sound))
    sources = [attributes["src"] for _, attributes in parsed.tags if "src" in attributes]
    assert len(sources) == 2
    kinds = [source.split(";base64,")[0] for source in sources]
    assert kinds == ["data:image/png", "data:audio/flac"]
    decoded = [base64.b64decode(source.split(",")[1]) for source in sources]
    assert decoded == [picture, sound]


def test_markup_is_not_escaped_twice_and_kinds_are_checked() -> None:
    assert "<p>a &amp; b</p>" in rendered("""{{ callout("good", "x", ["a & b"]) }}""")
    assert '<p class="note">one line, two lines</p>' in rendered(
        "{% call note() %}one line,\ntwo lines\n{% endcall %}"
    )
    with pytest.raises(UndefinedError, match="'great'"):
        rendered("""{{ callout("great", "x", []) }}""")


@pytest.mark.parametrize("missing", ["{{ missing }}", "{{ given.missing }}", "{{ given['it'] }}"])
def test_a_value_that_is_not_there_is_an_error(missing: str) -> None:
    with pytest.raises(UndefinedError):
        rendered(missing, given={})


def test_cells_of_a_row_have_nothing_between_them() -> None:
    cells = """{{ row("name", 1, "b", ("c", "small"), ("d", "")) }}"""
    assert (
        '<tr><th scope="row">name</th><td>1</td><td>b</td><td><div>c</div>'
        '<div class="note">small</div></td><td><div>d</div><div class="note"></div></td></tr>'
    ) in rendered(cells)


def test_an_apostrophe_is_found_as_it_is_written() -> None:
    nothing = {"chapters": None, "pairs": None}
    made = page.render("together.html.j2", "it's &#39;", subtitle="'<b>", **nothing)
    assert "<title>it's &amp;#39;</title>" in made
    assert '<p class="subtitle">\'&lt;b&gt;</p>' in made


def test_ids_of_a_part_have_its_prefix() -> None:
    named = """{% call section("a", "origin") %}{% endcall %}"""
    templates = page.TEMPLATES.overlay(cache_size=0)
    importing = PARTS.replace("%}", "with context %}")
    assert '<section id="origin">' in templates.from_string(importing + named).render()
    inside = templates.from_string("{% with prefix = 'x-' %}{% include part %}{% endwith %}")
    part = templates.from_string(importing + named)
    assert '<section id="x-origin">' in inside.render(part=part)


def test_an_installed_package_has_the_templates(tmp_path: Path) -> None:
    folder = ROOT / "ray_jobs" / "reports" / "templates"
    command = "from setuptools import setup; setup()"
    build = ["build", f"--build-base={tmp_path}", f"--build-lib={tmp_path / 'lib'}"]
    egg = ["egg_info", f"--egg-base={tmp_path}"]
    made = subprocess.run(
        [sys.executable, "-c", command, *egg, *build], cwd=ROOT, capture_output=True, text=True
    )
    assert made.returncode == 0, made.stderr
    installed = tmp_path / "lib" / "ray_jobs" / "reports" / "templates"
    assert {path.name for path in installed.iterdir()} == {path.name for path in folder.iterdir()}
