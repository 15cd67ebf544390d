"""What the exported ONNX file costs to decode under ONNX Runtime, against torch.

    python -m benchmarks.onnx_decode [--quick]

CPU time of one thread, random weights of the published configuration (snac_24khz, 19.8 million
parameters) with the default head, one utterance of 4 frames (the window of a stream), 12 (1.0 s)
and 64 (5.5 s):

    eager       `Decoder48k.decode`, as from_pretrained gives it
    folded      the same with weight norm folded in, as in a `StreamingDecoder`
    onnx        the file of `ttt.snac.onnx.export_onnx`

and a stream, frame by frame: the file on the last four frames for each new one, and
`StreamingDecoder(low_latency=True)`, which computes of each layer only what is new.

All alternate in every round. A ratio is torch's time by the file's, of the means over the rounds,
with a 95 % interval over the rounds. The first round warms up.
"""

from __future__ import annotations

import argparse
import importlib
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.streaming_decode import published_shape
from ttt.snac.decode import LOW_LATENCY_FRAMES, StreamingDecoder
from ttt.snac.layers.spans import with_folded_weights
from ttt.snac.model import Decoder48k, deterministic
from ttt.snac.onnx import export_onnx
from ttt.statistics.intervals import clustered_ratio_interval

FRAMES = (LOW_LATENCY_FRAMES, 12, 64)
REACH, LARGEST_DIFFERENCE = 1.2, 1e-4


def main() -> None:
    """Print one table."""
    parser = argparse.ArgumentParser(description="ONNX Runtime against torch, one core.")
    parser.add_argument("--quick", action="store_true", help="six rounds in place of fifteen")
    rounds = 6 if parser.parse_args().quick else 15
    torch.set_num_threads(1)
    torch.manual_seed(0)
    _, decoder = published_shape()
    file, megabytes = _file(decoder)
    folded = with_folded_weights(decoder)
    ways = {"eager": _whole(decoder), "folded": _whole(folded), "onnx": file}
    print(f"a file of {megabytes:.1f} MB; {rounds - 1} rounds")
    print("frames   way      ms a frame   real-time factor   torch / ONNX (95 % interval)   reach")
    for frames in FRAMES:
        codes = [torch.randint(4096, (1, frames * count)) for count in (1, 2, 4)]
        _print_row(decoder, frames, _times(ways, codes, rounds))
        apart = (file(codes) - ways["eager"](codes)).abs().max().item()
        print(f"{frames:>6}   largest difference {apart:.1e}   <= {LARGEST_DIFFERENCE:g}")
    codes = [torch.randint(4096, (1, count)) for count in (1, 2, 4)]
    window = [scale.repeat(1, LOW_LATENCY_FRAMES) for scale in codes]
    stream = StreamingDecoder(decoder, low_latency=True)
    for _ in range(LOW_LATENCY_FRAMES):
        stream.push(codes)
    streams = {"stream": lambda _: stream.push(codes), "onnx": lambda _: file(window)}
    _print_row(decoder, 1, _times(streams, codes, rounds))


def _file(decoder: Decoder48k) -> tuple[Callable[[list[Tensor]], Tensor], float]:
    """The decode of the decoder's file, and its size in MB."""
    runtime: Any = importlib.import_module("onnxruntime")
    options = runtime.SessionOptions()
    options.intra_op_num_threads = 1
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "decoder.onnx")
        export_onnx(decoder, path)
        session = runtime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        megabytes = path.stat().st_size / 1e6

    def decode(codes: list[Tensor]) -> Tensor:
        feed = {f"audio_codes.{k}": scale.numpy() for k, scale in enumerate(codes)}
        return torch.from_numpy(session.run(None, feed)[0])

    return decode, megabytes


def _whole(decoder: Decoder48k) -> Callable[[list[Tensor]], Tensor]:
    def decode(codes: list[Tensor]) -> Tensor:
        with deterministic(decoder), torch.inference_mode():
            return decoder.decode(codes)

    return decode


def _times(
    ways: dict[str, Callable[[list[Tensor]], Tensor]], codes: list[Tensor], rounds: int
) -> dict[str, list[float]]:
    """Seconds of CPU of each way in each round but the first."""
    times: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, decode in ways.items():
            start = time.process_time()
            decode(codes)
            times[name].append(time.process_time() - start)
    return {name: each[1:] for name, each in times.items()}


def _print_row(decoder: Decoder48k, frames: int, times: dict[str, list[float]]) -> None:
    for name, spent in times.items():
        mean = sum(spent) / len(spent) / frames
        turns = range(len(spent))
        ratio = clustered_ratio_interval(spent, times["onnx"], turns, 0, 2000, "round")
        told = ""
        if name != "onnx":
            told = f"{ratio.mean:>8.2f} ({ratio.low:.2f} to {ratio.high:.2f})"
        reach = f">= {REACH:g}" if name == "eager" else ""
        factor = mean / decoder.geometry.seconds(1)
        print(
            f"{frames:>6}   {name:<7}  {1e3 * mean:>10.1f}   {factor:>16.2f}   {told:<28}   {reach}"
        )


if __name__ == "__main__":
    main()
