"""What float32 rounding becomes in randomly drawn TTT layers.

    python -m benchmarks.ttt_rounding [--first-seed 2000] [--draws 9]

The mid model of `benchmarks.moshi_stream` with TTT-MLP in half of its layers, drawn from one seed
after another, hears the same 1,500 frames in passes of 64 and of 16 steps, with its own text. Where
the losses differ by more than 1e-5 both are computed again in float64, with that text: what
vanishes there was rounding, which the fast weights' learning had made larger.
"""

from __future__ import annotations

import argparse

import torch
from moshi.models.lm import LMModel
from torch import Tensor

from benchmarks.moshi_stream import MID, random_codes
from ttt.moshi import evaluate_codes

FRAMES = 1500


def main() -> None:
    """Print a line per draw."""
    parser = argparse.ArgumentParser(description="Rounding in randomly drawn TTT layers.")
    parser.add_argument("--first-seed", type=int, default=2000)
    parser.add_argument("--draws", type=int, default=9)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    codes = random_codes(FRAMES)
    print("seed  float32  from frame  float64  float32 to float64")
    for seed in range(arguments.first_seed, arguments.first_seed + arguments.draws):
        print(f"{seed}  {_measure(seed, codes)}", flush=True)


def _measure(seed: int, codes: Tensor) -> str:
    lm = MID.build(with_ttt=True, seed=seed)
    text = evaluate_codes(lm, codes, chunk=64).text
    difference, single = _by_both(lm, codes, text)
    line = f"{difference.max():.1e}"
    if difference.max() <= 1e-5:
        return line
    first = int((difference > 1e-5).nonzero()[0])
    exact_difference, exact = _by_both(lm.double(), codes, text)
    return f"{line}  {first}  {exact_difference.max():.1e}  {(single - exact).abs().max():.1e}"


def _by_both(lm: LMModel, codes: Tensor, text: Tensor) -> tuple[Tensor, Tensor]:
    """Per frame the largest difference between the two ways [frames], and one way's losses."""
    one, other = (evaluate_codes(lm, codes, text_stream=text, chunk=n).nll for n in (64, 16))
    return (one - other).abs().amax(dim=(0, 1)), one


if __name__ == "__main__":
    main()
