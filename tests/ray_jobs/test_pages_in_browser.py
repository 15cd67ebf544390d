"""Every page in a real browser: it fits a phone, breaks no name, and can be read in the dark."""

import html
import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest

from ray_jobs.moshi.compare import compare_chapters, compare_pairs
from ray_jobs.reports import between, chapters, decoder, demo, pairs, sweep, together
from ray_jobs.reports.page import read_pictures
from tests.browser import CHROMIUM
from tests.ray_jobs import sample_pages
from ttt.records import read_json

PHONE, DESK = 390, 1280
LEAST_CONTRAST = 4.5
"""Between a text and what is behind it, as the web's guidelines for accessibility want it."""

# In frames as wide as the screens; what is found lands in the document that is printed.
LOOK = """<!DOCTYPE html><body>FRAMES<pre id="found"></pre><script>
const linear = (x) => (x <= 0.04045 ? x / 12.92 : ((x + 0.055) / 1.055) ** 2.4);
const light = (colour) => {
  const [r, g, b] = colour.map((x) => linear(x / 255));
  return 0.2126 * r + 0.7152 * g + 0.0722 * b;
};
const parts = (css) => css.match(/[\\d.]+/g).map(Number);
const behind = (node) => {
  for (; node; node = node.parentElement) {
    const [r, g, b, a] = parts(getComputedStyle(node).backgroundColor);
    if (a === undefined || a > 0) return light([r, g, b]);
  }
  return 1;
};
const contrast = (node) => {
  const [a, b] = [light(parts(getComputedStyle(node).color).slice(0, 3)), behind(node)];
  return (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
};
const look = (frame) => {
  const page = frame.contentDocument, broken = [], faint = [], wide = [];
  page.querySelectorAll("details").forEach((each) => (each.open = true));
  const texts = page.createTreeWalker(page.body, NodeFilter.SHOW_TEXT);
  while (texts.nextNode()) {
    const text = texts.currentNode, range = page.createRange();
    if (text.textContent.trim() && contrast(text.parentElement) < LEAST)
      faint.push(text.textContent);
    for (const word of text.textContent.matchAll(/\\w+/g)) {
      range.setStart(text, word.index);
      range.setEnd(text, word.index + word[0].length);
      if (range.getClientRects().length > 1) broken.push(word[0]);
    }
  }
  for (const each of page.querySelectorAll("body *"))
    if (!each.closest(".scroll *") && each.getBoundingClientRect().right > frame.clientWidth + 0.5)
      wide.push(each.tagName + " " + each.textContent.trim().slice(0, 60));
  return {
    page: frame.title, width: frame.clientWidth, needed: page.documentElement.scrollWidth,
    ground: behind(page.body), broken, faint, wide,
  };
};
onload = () => {
  const found = [...document.querySelectorAll("iframe")].map(look);
  document.getElementById("found").textContent = JSON.stringify(found);
};
</script>"""  # fmt: skip


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Every kind of page, made of runs of arithmetic."""
    folder = tmp_path_factory.mktemp("pages")
    heard, asked = sample_pages.chapters(folder / "heard"), sample_pages.pairs(folder / "asked")
    of_chapters, of_pairs = (read_json(run / "summary.json") for run in (heard, asked))
    drawn, silence = read_pictures(heard), (asked / "silence.flac").read_bytes()
    media = read_pictures(asked), silence
    evaluated = sample_pages.decoder()
    links = ["evaluation/report.html"] * 4
    both = (drawn, drawn)
    made = {
        "decoder": decoder.build_report(*evaluated),
        "decoders compared": between.build_report(*sample_pages.compared_decoders()),
        "decoders heard": between.build_report(*sample_pages.heard_decoders()),
        "listening": sample_pages.listening_page(),
        "chapters": chapters.build_report(of_chapters, drawn),
        "pairs": pairs.build_report(of_pairs, *media),
        "together": together.build_report(
            {"chapters": of_chapters, "pairs": of_pairs}, media, drawn
        ),
        "sweep": sweep.build_report(sample_pages.sweep()),
        **sample_pages.trainings(folder / "trainings"),
        "demo": demo.build_page(
            evaluated[0],
            of_chapters,
            of_chapters,
            of_pairs,
            links,
            evaluated[2],
            pictures=both,
        ),
        "chapters compared": compare_chapters(f"{heard}:baseline", f"{heard}:baseline").page,
        "pairs compared": compare_pairs(
            f"{asked}:baseline-paper", f"{asked}:ttt_long_name-paper"
        ).page,
    }
    paths = {name: folder / f"{name}.html" for name in made}
    for name, path in paths.items():
        path.write_text(made[name])
    return paths


def test_every_page_is_one_whole_file(pages: dict[str, Path]) -> None:
    """Where there is no browser, at least every template finds all that it wants."""
    for name, path in pages.items():
        text = path.read_text()
        assert text.rstrip().endswith("</html>"), name
        assert not re.search(r'(?:src|href)="https?:', text), name


@pytest.mark.skipif(not CHROMIUM, reason="there is no Chromium on this machine")
@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_pages_fit_and_can_be_read(pages: dict[str, Path], tmp_path: Path, dark: bool) -> None:
    found = _look(pages, tmp_path, dark=dark)
    assert {(each["page"], each["width"]) for each in found} == {
        (name, width) for name in pages for width in (PHONE, DESK)
    }
    for each in found:
        where = f"{each['page']} at {each['width']}"
        assert each["needed"] == each["width"], f"{where} scrolls sideways: {each['wide']}"
        assert not each["wide"], f"{where}: {each['wide']}"
        assert not each["broken"], f"{where} breaks {each['broken']}"
        assert not each["faint"], f"{where} is hard to read: {each['faint']}"
        assert (each["ground"] < 0.05) == dark, where


def _look(pages: dict[str, Path], folder: Path, *, dark: bool) -> list[dict[str, Any]]:
    frames = "".join(
        f'<iframe title="{name}" src="{path.as_uri()}" style="border:0;width:{width}px"></iframe>'
        for name, path in pages.items()
        for width in (PHONE, DESK)
    )
    around = folder / "look.html"
    around.write_text(LOOK.replace("FRAMES", frames).replace("LEAST", str(LEAST_CONTRAST)))
    done = subprocess.run(
        [
            *(CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"),
            *(f"--user-data-dir={folder / 'profile'}", "--allow-file-access-from-files"),
            f"--blink-settings=preferredColorScheme={0 if dark else 1}",
            *("--virtual-time-budget=20000", "--dump-dom", around.as_uri()),
        ],
        capture_output=True,
        text=True,
        timeout=240,
    )
    written = re.search('<pre id="found">(.+?)</pre>', done.stdout, re.S)
    assert written, done.stderr
    return json.loads(html.unescape(written[1]))
