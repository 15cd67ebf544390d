"""The activation's kernels are held to what can be seen of them without a GPU."""

import os
import subprocess
import sys
import warnings
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from ttt.snac.layers import snake

ROOT = Path(__file__).parents[4]


def trial(word: str, **environment: str) -> str:
    pytest.importorskip("triton", reason="triton, which torch brings on Linux, is not installed")
    done = subprocess.run(
        [sys.executable, "-m", "tests.ttt.snac.layers.kernel_trials", word],
        env={**os.environ, **environment},
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def test_both_kernels_compile_for_hopper_in_every_type(tmp_path):
    lines = trial("compile", TRITON_CACHE_DIR=str(tmp_path)).splitlines()
    assert len(lines) == 6
    assert all(int(line.split()[-1]) > 0 for line in lines)


def test_interpreted_they_are_the_plain_operations():
    assert trial("interpret", TRITON_INTERPRET="1") == "as the plain operations\n"


def test_a_kernel_that_does_not_work_is_told_once_in_one_sentence(monkeypatch):
    def fails(kernel):
        raise RuntimeError("Failed to find C compiler. Please specify via CC\nand more")

    monkeypatch.setattr(snake, "_try_out", fails)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "NVIDIA H100")
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: False)
    monkeypatch.setattr(
        snake.importlib, "import_module", lambda name: SimpleNamespace(TritonError=ValueError)
    )
    snake._kernel.cache_clear()
    try:
        with pytest.warns(UserWarning, match="slower on NVIDIA H100 .*C compiler.*install gcc"):
            assert snake._kernel_now() is None
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert snake._kernel_now() is None
    finally:
        snake._kernel.cache_clear()


@pytest.mark.parametrize("lost", [torch.OutOfMemoryError, torch.AcceleratorError])
def test_a_card_that_is_full_or_lost_says_nothing_about_the_kernel(monkeypatch, lost):
    def fails(kernel):
        raise lost("no more")

    monkeypatch.setattr(snake, "_try_out", fails)
    monkeypatch.setattr(
        snake.importlib, "import_module", lambda name: SimpleNamespace(TritonError=ValueError)
    )
    snake._kernel.cache_clear()
    with pytest.raises(lost):
        snake._kernel()
    assert not snake._kernel.cache_info().currsize


def test_nothing_is_tried_inside_a_captured_graph(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
    monkeypatch.setattr(snake, "_try_out", lambda kernel: pytest.fail("tried"))
    snake._kernel.cache_clear()
    assert snake._kernel_now() is None
    assert not snake._kernel.cache_info().currsize
