"""What a frame of a token stream costs to decode, against the published 24 kHz loop.

    python -m benchmarks.streaming_decode [--quick]

CPU time of one thread, random weights of the published configuration (snac_24khz, 19.8 million
parameters) with the default head, one stream of 84 frames (7.2 s):

    published   snac.SNAC on the last 28 tokens (four frames) after every frame, 24 kHz samples
                2048:4096 kept, as Orpheus-TTS's decoder.py does
    exact       `StreamingDecoder.push_tokens`, 48 kHz, equal to the decode of all tokens at once
    low latency the same with `low_latency=True`: a window of four frames, cut in its middle

The three alternate in every round, frame by frame in blocks of six; a ratio is that of medians over
the frames of a round, and what is printed is the median over rounds and their range. The frames of
a stream's start are decoded before the clock runs.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Iterator

import torch
from snac import SNAC
from torch import Tensor

from ttt.snac.decode import StreamingDecoder
from ttt.snac.model import Decoder48k, deterministic
from ttt.snac.orpheus import from_codes, to_codes

PUBLISHED = {
    "sampling_rate": 24_000,
    "encoder_dim": 48,
    "encoder_rates": [2, 4, 8, 8],
    "decoder_dim": 1024,
    "decoder_rates": [8, 8, 4, 2],
    "attn_window_size": None,
    "codebook_size": 4096,
    "codebook_dim": 8,
    "vq_strides": [4, 2, 1],
}
FRAMES, WARM = 84, 12
TOKENS = 7
REACH = 1.0


def main() -> None:
    """Print one table."""
    parser = argparse.ArgumentParser(description="What a frame of a token stream costs to decode.")
    parser.add_argument("--quick", action="store_true", help="two rounds in place of five")
    rounds = 2 if parser.parse_args().quick else 5
    torch.set_num_threads(1)
    torch.manual_seed(0)
    codec, decoder = published_shape()
    codes = [torch.randint(4096, (1, FRAMES * count)) for count in (1, 2, 4)]
    ids = from_codes(codes)

    spent: dict[str, list[float]] = {}
    firsts: dict[str, int] = {}
    for _ in range(rounds):
        for name, median, first in _round(codec, decoder, ids):
            spent.setdefault(name, []).append(median)
            firsts[name] = first
    seconds = decoder.geometry.seconds(1)
    print("way          first audio   ms a frame   real-time factor   to published (range)   reach")
    for name, times in spent.items():
        ratios = [t / p for t, p in zip(times, spent["published"], strict=True)]
        middle = statistics.median(times)
        print(
            f"{name:<12} {firsts[name]:>4} tokens   {1e3 * middle:>10.1f}   "
            f"{middle / seconds:>16.2f}   {statistics.median(ratios):>8.2f} "
            f"({min(ratios):.2f} to {max(ratios):.2f})"
            f"   {'' if name == 'published' else f'<= {REACH:g}'}"
        )
    for name, (largest, share) in _errors(decoder, codes, ids).items():
        print(
            f"{name} to the decode of all at once: {largest:.1e} at most, RMS {share:.1e} times it"
        )


def published_shape() -> tuple[SNAC, Decoder48k]:
    """The published codec with random weights, and a decoder for it with the default head."""
    codec = SNAC(**PUBLISHED).eval()
    decoder = Decoder48k.from_snac(codec).eval()
    with torch.no_grad():
        for parameter in decoder.head.parameters():
            parameter[parameter == 0] = 0.3  # As if trained: a fresh branch is silent.
    return codec, decoder


def _round(codec: SNAC, decoder: Decoder48k, ids: list[int]) -> Iterator[tuple[str, float, int]]:
    """Of each way: its name, median seconds of CPU per frame, tokens before its first audio."""
    ways = {
        "published": _published(codec),
        "exact": StreamingDecoder(decoder).push_tokens,
        "low latency": StreamingDecoder(decoder, low_latency=True).push_tokens,
    }
    times: dict[str, list[float]] = {name: [] for name in ways}
    first: dict[str, int] = {}
    for block in range(0, FRAMES, 6):
        for name, push in ways.items():
            for frame in range(block, block + 6):
                seconds, given = 0.0, 0
                for token in ids[TOKENS * frame : TOKENS * (frame + 1)]:
                    start = time.process_time()
                    given += push([token]).shape[-1]
                    seconds += time.process_time() - start
                if given:
                    first.setdefault(name, TOKENS * (frame + 1))
                if frame >= WARM:
                    times[name].append(seconds)
    return ((name, statistics.median(times[name]), first[name]) for name in ways)


def _published(codec: SNAC) -> Callable[[list[int]], Tensor]:
    """The loop as a function of the next token."""
    buffer: list[int] = []

    def push(tokens: list[int]) -> Tensor:
        buffer.extend(tokens)
        if len(buffer) % TOKENS or len(buffer) < 4 * TOKENS:
            return torch.zeros(1, 1, 0)
        codes, _ = to_codes(buffer[-4 * TOKENS :])
        with torch.inference_mode():
            return codec.decode(codes)[:, :, 2048:4096]

    return push


def _errors(
    decoder: Decoder48k, codes: list[Tensor], ids: list[int]
) -> dict[str, tuple[float, float]]:
    """Of each mode, its largest difference to the whole decode, and the RMS one as its share."""
    with deterministic(decoder):
        whole = decoder.decode(codes)
    found = {}
    for name, low_latency in (("exact", False), ("low latency", True)):
        stream = StreamingDecoder(decoder, low_latency=low_latency)
        pieces = [stream.push_tokens(ids[at : at + TOKENS]) for at in range(0, len(ids), TOKENS)]
        apart = torch.cat([*pieces, stream.finish()], dim=-1) - whole
        share = apart.square().mean().sqrt() / whole.square().mean().sqrt()
        found[name] = apart.abs().max().item(), share.item()
    return found


if __name__ == "__main__":
    main()
