"""Pictures are real images, show what was asked, repeat exactly and leave pyplot alone."""

import io
import re
import subprocess
import sys
from xml.etree import ElementTree

import numpy as np
import pytest
from matplotlib import image as mpl_image

from ttt.plots import Column, Curve, curves, estimates, parallel_coordinates, shares, spectrograms

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
        marks={"phase 2": 2.0},
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


def test_parallel_coordinates_cross_each_column_at_its_value() -> None:
    picture = parallel_coordinates(
        [
            Column(label="rate", values=[1e-4, 1e-3, 1e-2], log=True),
            Column(label="clipping", values=["on", "off", None]),
            Column(label="loss", values=[0.5, 0.25, 1.0]),
        ],
        [0.5, 0.25, 1.0],
        colour_label="validation loss",
        marked={"best": 1, "default": 0},
        image_format="svg",
    )
    text = picture.decode()
    for words in ("0.0001", "0.01", "clipping", "on", "off", "0.25", "best", "default"):
        assert words in text
    thick = re.findall(r'd="([^"]*)"[^>]*stroke: #(\w{6}); stroke-width: 3;', text)
    best, default = ([float(y) for y in re.findall(r" ([\d.]+) \n", d)] for d, _ in thick[:2])
    assert [colour for _, colour in thick[:2]] == ["d55e00", "0072b2"]
    # From the top (small) down: 1e-3 lies in the middle of the decades, 0.5 a third up the losses.
    foot, top = default[0], default[1]
    assert best == pytest.approx([(foot + top) / 2, foot, foot])
    assert default[2] == pytest.approx(foot + (top - foot) / 3)
    assert top < foot
    with pytest.raises(ValueError, match="at least two columns, got 1"):
        parallel_coordinates([Column(label="x", values=[1.0])], [1.0], colour_label="loss")


@pytest.mark.filterwarnings("error")
def test_parallel_coordinates_have_places_for_null_and_none_for_what_no_scale_has() -> None:
    picture = parallel_coordinates(
        [
            Column(label="decay", values=["null", 0.999, "null", 0.99]),
            Column(label="weight", values=[0, 1e-1, 1e-3, 1e-2], log=True),
            Column(label="nothing", values=[None, None, None, None]),
            Column(label="zero", values=[0, 0, None, None], log=True),
        ],
        [1.0, 2.0, 3.0, 4.0],
        colour_label="validation loss",
        marked={"default": 0, "best": 1, "worst": 2},
        image_format="svg",
    )
    text = picture.decode()
    thick = re.findall(r'd="([^"]*)"[^>]*stroke: #\w{6}; stroke-width: 3;', text)
    heights = ([float(y) for y in re.findall(r" ([\d.]+) \n", d)] for d in thick[:3])
    default, best, (top, foot) = heights
    assert default == [top], "null lies above the numbers, and 0 nowhere on a logarithmic scale"
    assert best == pytest.approx([(foot + top) / 2, top])
    for words in ("null", "0.99", "0.999", "0.001", "0.1"):
        assert words in text


def test_shares_are_bars_with_a_mark_at_their_own_reference() -> None:
    picture = shares(
        ["rate", "decay"],
        [0.5, 0.25],
        [0.05, 0.1],
        x_label="share",
        reference_label="by chance",
        image_format="svg",
    )
    text = picture.decode()
    for words in ("rate", "decay", "share", "by chance", "100%"):
        assert words in text
    bars = re.findall(r'd="([^"]*)"[^>]*style="fill: #0072b2"', text)
    widths = [max(xs) - min(xs) for xs in (_numbers(r"[ML] ([\d.]+) ", bar) for bar in bars)]
    assert len(widths) == 2
    assert widths[0] == pytest.approx(2 * widths[1])
    marks = re.findall(r'd="([^"]*)"[^>]*stroke: #d55e00', text)[:2]
    foot = min(_numbers(r"[ML] ([\d.]+) ", bars[0]))
    at = [(_numbers(r"[ML] ([\d.]+) ", mark)[0] - foot) / widths[0] * 0.5 for mark in marks]
    assert at == pytest.approx([0.05, 0.1], abs=1e-4)
    with pytest.raises(ValueError, match="at least one row"):
        shares([], [], [], x_label="share", reference_label="by chance")


def _numbers(pattern: str, text: str) -> list[float]:
    return [float(number) for number in re.findall(pattern, text)]
