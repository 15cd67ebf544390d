"""What the pictures of settings show, read from the SVG."""

from __future__ import annotations

import re

import pytest

from ray_jobs.reports.setting_plots import Column, parallel_coordinates, shares


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
