"""Pictures are real images, show what was asked, repeat exactly and leave pyplot alone."""

import io
import itertools
import subprocess
import sys
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from matplotlib import image as mpl_image
from matplotlib.figure import Figure

from ttt import plots
from ttt.plots import Curve, curves, estimates, spectrograms

RATE = 48_000


def _tone(hertz: float, seconds: float = 0.5) -> np.ndarray:
    return np.sin(2 * np.pi * hertz * np.arange(int(seconds * RATE)) / RATE)


def test_spectrograms_put_a_tone_at_its_height_in_each_panel() -> None:
    low, high = _tone(3_000), _tone(18_000)
    pixels = mpl_image.imread(io.BytesIO(spectrograms({"low": low, "high": high}, RATE)))
    brightness = pixels[:, :, :3].sum(axis=2)
    # Magma is black to yellow; a bright row inside a dark panel is the tone.
    width = pixels.shape[1]
    left = brightness[:, int(0.25 * width)]
    right = brightness[:, int(0.70 * width)]
    dark = np.flatnonzero((left < 0.1) & (right < 0.1))
    top, bottom = dark.min(), dark.max()

    def kilohertz(column: np.ndarray) -> float:
        inside = column[top:bottom]
        return 24 * (1 - np.argmax(inside) / len(inside))

    assert kilohertz(left) == pytest.approx(3, abs=0.5)
    assert kilohertz(right) == pytest.approx(18, abs=0.5)


def test_svg_names_axes_labels_and_legend() -> None:
    x = [1.0, 2.0, 3.0]
    picture = curves(
        [
            Curve(label="training loss", x=x, y=[3, 2, 1], low=[2, 1, 0.5], high=[4, 3, 2]),
            Curve(label="resampling", x=x, y=[2, 2, 2], dashed=True),
        ],
        x_label="step",
        y_label="loss",
        title="Loss",
        marks=[("phase 2", 2.0)],
        image_format="svg",
    )
    ElementTree.fromstring(picture)
    text = picture.decode()
    for words in ("training loss", "resampling", "step", "phase 2", "Loss"):
        assert words in text
    bright = spectrograms({"true": _tone(440)}, RATE, image_format="svg").decode()
    assert "frequency (kHz)" in bright
    assert "dB" in bright


@pytest.mark.parametrize("image_format", ["png", "svg"])
def test_equal_input_gives_equal_bytes(image_format: str) -> None:
    def draw() -> bytes:
        line = Curve(label="a", x=[0, 1], y=[0, 1])
        return curves([line], x_label="x", y_label="y", image_format=image_format)

    assert draw() == draw()


def test_silence_and_refusals() -> None:
    assert spectrograms({"silence": np.zeros(RATE)}, RATE).startswith(b"\x89PNG")
    with pytest.raises(ValueError, match=r"short: shape \(100,\); need \[T\] with T >= 2048"):
        spectrograms({"short": np.zeros(100)}, RATE)
    with pytest.raises(ValueError, match="at least one signal"):
        spectrograms({}, RATE)
    with pytest.raises(ValueError, match="at least one line"):
        curves([], x_label="x", y_label="y")


def test_pyplot_is_never_imported() -> None:
    program = "import sys, ttt.plots; sys.exit('matplotlib.pyplot' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


def test_a_logarithmic_axis_writes_plain_numbers() -> None:
    line = Curve(label="loss", x=[16, 256, 4096], y=[3.0, 2.0, 1.0])
    svg = curves([line], x_label="frame", y_label="nats", log_x=True, image_format="svg").decode()
    linear = curves([line], x_label="frame", y_label="nats", image_format="svg").decode()
    assert "<!-- 1,024 -->" in svg
    assert "<!-- 1,024 -->" not in linear


@pytest.mark.parametrize("log_x", [False, True])
@pytest.mark.parametrize(
    "at, rows",
    [
        ([100], 1),
        ([100, 1100], 1),  # far apart
        ([100, 110, 1100], 2),
        ([1000, 1010, 1020, 1000], 4),  # two at one place
        ([1000, 1040, 1060], 3),  # the last ones of a training
    ],
)
def test_labels_of_close_marks_hide_no_other(
    at: list[float], rows: int, log_x: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[Figure] = []
    kept = plots.save

    def save(figure: Figure, *rest: Any) -> bytes:
        drawn.append(figure)
        return kept(figure, *rest)

    monkeypatch.setattr(plots, "save", save)
    line = Curve(label="loss", x=[90, 1100], y=[2.0, 1.0])
    marks = [(f"{24_000 + place:,}", x) for place, x in enumerate(at)]
    curves([line], x_label="step", y_label="nats", marks=marks, log_x=log_x)
    (axes,) = drawn[0].axes
    labels = [each for each in axes.texts if each.get_text().startswith("24,")]
    assert len(labels) == len(at), "a label of its own for each, also where two are alike"
    boxes = [each.get_window_extent() for each in labels]
    for one, other in itertools.combinations(boxes, 2):
        assert not one.overlaps(other)
    assert len({round(box.y0) for box in boxes}) == rows
    top = axes.transData.transform((0, 2.0))[1]
    assert min(box.y0 for box in boxes) > top, "the lines run below the labels"


def test_estimates_stand_in_their_rows_with_their_intervals() -> None:
    rows = ["first", "second", "third"]
    series = {"ours": [(0.25, 0.0, 0.5), (0.5, 0.25, 1.0), (np.nan, np.nan, np.nan)]}
    picture = estimates(
        rows, series, x_label="share", reference=("chance", 0.5), title="three", image_format="svg"
    )
    text = picture.decode()
    for word in (*rows, "ours", "share", "chance", "three"):
        assert word in text  # Fonts are drawn; the words stand in comments.
    dots = [
        (float(use.attrib["x"]), float(use.attrib["y"]))
        for use in ElementTree.fromstring(text).iter("{http://www.w3.org/2000/svg}use")
        if "stroke: #0072b2" in use.attrib.get("style", "")
    ]
    first, second = sorted(dots, key=lambda dot: dot[1])[:2]  # The legend's is the lowest.
    assert len(dots) == 3
    assert second[0] > first[0]


def test_estimates_of_nothing_are_refused() -> None:
    with pytest.raises(ValueError, match="at least one row and one series"):
        estimates([], {"a": []}, x_label="", reference=("chance", 0.5))


def test_faint_curves_are_drawn_without_a_name() -> None:
    drawn, alone = (
        curves(lines, x_label="step", y_label="loss", image_format="svg").decode()
        for lines in (
            [Curve(label="best", x=[1, 2, 3], y=[3, 2, 1]), FAINT, FAINT_POINT],
            [FAINT, FAINT_POINT],
        )
    )
    for picture in (drawn, alone):
        assert picture.count("#c3cad3") >= 2
        assert "another" not in picture
    assert "best" in drawn


FAINT = Curve(label="another", x=[1, 2, 3], y=[2, 2, 2], faint=True)
FAINT_POINT = Curve(label="another point", x=[1], y=[2.5], faint=True)
