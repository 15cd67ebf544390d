"""A tiny pair that shows memory beyond the window: its language, and its base model.

Whoever remembers further back than attention reaches knows every second code of a chapter in
`LANGUAGE`. `baseline/` is a base model that does not; `ttt/` is what `ray_jobs.train_ttt` made in
it, frozen, by configs/train_ttt_tiny_cpu.yaml. Both ship in `ttt/assets/tiny_moshi_pair`.

    python -m ttt.moshi.tiny_pair --seed 0 --out base/

trains the base. Nothing of an answer is ever known within its window, and a base that heard
nothing but these chapters would have heads that cannot say one: its best hidden state there leaves
0.74 nats an answer. So it also meets chapters in which the other voice now and then says a frame
ahead what comes. Where that voice is masked nothing is announced, and it is at the bound of whoever
forgets.

Deterministic on one CPU thread for a seed.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from moshi.models.lm import LMModel
from moshi.utils.compile import no_compile
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional as F

from ttt.moshi.streaming.delays import ZERO_TOKEN
from ttt.moshi.tiny import tiny_arguments, tiny_lm
from ttt.synthetic.chapters import SyntheticChapterConfig, synthetic_chapter

ASSET = Path(__file__).parents[1] / "assets" / "tiny_moshi_pair"
"""Folders `baseline`, in the layout of `load_moshi`, and `ttt`, an export for `load_ttt`."""
LANGUAGE = SyntheticChapterConfig(cues=8, cues_per_block=2, card=16)
"""What the models were trained on, and know how to hear."""
MODEL: dict[str, Any] = {
    "context": 4,
    "dim": 64,
    "num_layers": 3,
    "num_heads": 4,
    "card": LANGUAGE.card,
    "text_card": 8,
    "depformer_dim": 32,
    "depformer_layers": 1,
    "depformer_heads": 2,
}
"""Three layers reach 3 x 3 frames back, and delayed codes 2 more; a cue comes back after 14."""
STEPS = 500
FRAMES_PER_STEP = 2048
ROUNDS = 8
"""Length of a training chapter: every cue occurs so often."""
ANNOUNCED = 0.5
"""Share of the frames that the other voice says one frame ahead, in half of the chapters."""
PEAK_RATE, WARMUP_STEPS, FALLING_SHARE = 3e-3, 20, 0.4
SEMANTIC_WEIGHT, TEXT_WEIGHT = 100.0, 1.0
FRESH_SEED = 1_000_000
"""Seeds of chapters from here on are not used in training."""


def train_base(out: Path, seed: int, steps: int = STEPS) -> None:
    """Train a base model whose heads can say whatever is known, and save it to `out`."""
    lm = tiny_lm(seed, **MODEL)
    optimizer = torch.optim.AdamW(lm.parameters(), betas=(0.9, 0.95), weight_decay=0.01)
    for step, (codes, other) in enumerate(base_chapters(seed, steps)):
        for group in optimizer.param_groups:
            group["lr"] = _rate(step, steps)
        loss = training_loss(lm, codes, other)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(lm.parameters(), 1.0)
        optimizer.step()
        if step % 50 == 49:
            print(f"step {step + 1}/{steps} loss {loss.item():.3f}", flush=True)
    out.mkdir(parents=True, exist_ok=True)
    (out / "config.json").write_text(json.dumps(tiny_arguments(**MODEL), indent=2) + "\n")
    save_file({k: t.contiguous() for k, t in lm.state_dict().items()}, out / "model.safetensors")


def base_chapters(seed: int, steps: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Chapters [B, 8, T] for every step, and the other voice's codes beside them.

    A function of its arguments alone. Every second chapter has no structure. In half of the
    chapters the other voice says some frames one ahead, drawn one by one, and is silent else.
    """
    frames = ROUNDS * LANGUAGE.round_frames
    batch = FRAMES_PER_STEP // frames
    generator = torch.Generator().manual_seed(seed)
    speaks = (torch.arange(batch) // 2 % 2 == 1)[:, None]
    for step in range(steps):
        halves = _chapters(0.5, (seed * steps + step) * batch % FRESH_SEED, batch, frames)
        codes = halves.view(2, batch // 2, *halves.shape[1:]).transpose(0, 1).flatten(0, 1)
        told = speaks & (torch.rand(batch, frames, generator=generator) < ANNOUNCED)
        told[:, -1] = False  # Nothing comes after it.
        ahead = codes.roll(-1, dims=2)
        yield codes, torch.where(told[:, None], ahead, ZERO_TOKEN)


def training_loss(lm: LMModel, codes: Tensor, other: Tensor) -> Tensor:
    """Mean NLL with Moshi's weights, 100 for the semantic codebook, 1 for each acoustic one.

    Codes of both voices are [B, 8, T]. The text is padding, and learnt: a model that chooses its
    own text then says nothing.
    """
    batch, codebooks, frames = codes.shape
    text = torch.full((batch, 1, frames), lm.text_padding_token_id)
    with no_compile():
        said = lm(torch.cat([text, codes, other], dim=1))
    nll = F.cross_entropy(said.logits.flatten(0, 2), codes.flatten(), reduction="none")
    nll = nll.view_as(codes)
    text_nll = F.cross_entropy(said.text_logits.flatten(0, 2), text.flatten())
    # The last frame's acoustic codes would be predicted one step later: NaN.
    semantic, acoustic = nll[:, 0].mean(), nll[:, 1:, :-1].mean((0, 2)).sum()
    weight = SEMANTIC_WEIGHT + codebooks - 1 + TEXT_WEIGHT
    return (SEMANTIC_WEIGHT * semantic + acoustic + TEXT_WEIGHT * text_nll) / weight


def _chapters(without: float, first_seed: int, batch: int, frames: int) -> Tensor:
    """[batch, 8, frames], of which the first `without` (a share) have no structure."""
    none = dataclasses.replace(LANGUAGE, structure="none")
    languages = [none if place < without * batch else LANGUAGE for place in range(batch)]
    made = [
        synthetic_chapter(language, first_seed + place, frames)
        for place, language in enumerate(languages)
    ]
    return torch.from_numpy(np.stack(made))


def _rate(step: int, steps: int) -> float:
    """Warm up, stay, fall to a twentieth over the last steps."""
    left = (steps - step) / (FALLING_SHARE * steps)
    return PEAK_RATE * min(1.0, (step + 1) / WARMUP_STEPS, max(0.05, left))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="folder for the base model")
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--steps", type=int, default=STEPS)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    train_base(arguments.out, arguments.seed, arguments.steps)
