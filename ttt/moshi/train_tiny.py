"""Train a tiny Moshi with TTT layers, and the same without: memory beyond the window, shown.

    python -m ttt.moshi.train_tiny --seed 0 --out effect/

writes `baseline/`, `ttt/` and figures.json; what it wrote on chapters of `LANGUAGE` ships in
`ttt/assets/tiny_moshi_effect`. Whoever remembers further back than attention reaches knows every
second code there. Both models hear the same
chapters in the same order for the same number of steps. Chapters are several windows long and
training goes end to end through all of the TTT layer's inner steps, so that what is learnt is how
to learn: keys, values, rates and the starting point.

Tables come first, alone. Then half of the chapters have no structure: a model that had met nothing
but tables would bet on its memory there, and lose.

    python -m ttt.moshi.train_tiny --base --seed 0 --out base/

writes a base model alone, for TTT layers that are trained in it while it is frozen. Nothing of an
answer is ever known within the window, so that a base which has heard nothing but these chapters
has heads that cannot say one: the best hidden state there is leaves `baseline/` 0.74 nats an
answer. This one also meets chapters in which the other voice now and then says a frame ahead what
comes. Where that voice is masked nothing is announced, and it knows as little as `baseline/`.

Deterministic on one CPU thread for a seed.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from moshi.models.lm import LMModel
from moshi.utils.compile import no_compile
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional as F

from ttt.layers import TTTConfig
from ttt.moshi.insert import insert_ttt
from ttt.moshi.load import load_moshi
from ttt.moshi.streaming.delays import ZERO_TOKEN
from ttt.moshi.streaming.evaluate import evaluate_codes
from ttt.moshi.tiny import tiny_arguments, tiny_lm
from ttt.moshi.ttt_files import load_ttt, save_ttt
from ttt.statistics.intervals import bootstrap_interval, difference_interval
from ttt.synthetic.chapters import SyntheticChapterConfig, synthetic_chapter

ASSET = Path(__file__).parents[1] / "assets" / "tiny_moshi_effect"
"""Folders `baseline` and `ttt`, each in the layout of `load_moshi`; `ttt` is one of `load_ttt`
too."""
BASE_ASSET = ASSET.parent / "tiny_moshi_base"
"""What `--base` wrote: a base model for layers that are trained while it is frozen."""
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
TTT_LAYERS = (0, 2)
# Rotation would make a key depend on its place in the mini-batch; with this base it hardly does.
TTT = TTTConfig(dim=64, num_heads=2, kind="linear", base_lr=32.0, rope_theta=1e30)
STEPS = 800
FRAMES_PER_STEP = 2048
ROUNDS = 8
"""Length of a training chapter: every cue occurs so often."""
TABLES_ONLY = 0.4
"""Share of the steps before chapters without structure come in; half of them from then on."""
BASE_STEPS = 500
ANNOUNCED = 0.5
"""Share of the frames that the other voice says one frame ahead, in half of a base's chapters."""
PEAK_RATE, WARMUP_STEPS, FALLING_SHARE = 3e-3, 20, 0.4
SEMANTIC_WEIGHT, TEXT_WEIGHT = 100.0, 1.0
MEASURED_CHAPTERS, MEASURED_ROUNDS = 24, 32
FRESH_SEED = 1_000_000
"""Seeds of chapters from here on are not used in training."""


def train(out: Path, seed: int, steps: int = STEPS) -> dict[str, Any]:
    """Train both models, save them to `out` with their figures, return these."""
    for name in ("baseline", "ttt"):
        train_one(out, name, seed, steps)
    figures: dict[str, Any] = {"seed": seed, "steps": steps}
    figures |= measure(load_tiny_effect("baseline", out), load_tiny_effect("ttt", out))
    (out / "figures.json").write_text(json.dumps(_rounded(figures), indent=2) + "\n")
    return figures


def train_one(out: Path, name: str, seed: int, steps: int) -> None:
    """Train "baseline" or "ttt" and save it to a folder of this name in `out`."""
    lm = tiny_lm(seed, **MODEL)
    if name == "ttt":
        generator = torch.Generator().manual_seed(seed)
        insert_ttt(lm, TTT_LAYERS, TTT, gate=1.0, generator=generator)
    _learn(lm, ((codes, None) for codes in training_chapters(seed, steps)), steps, name)
    save_model(lm, out / name)


def train_base(out: Path, seed: int, steps: int = BASE_STEPS) -> None:
    """Train a base model whose heads can say whatever is known, and save it to `out`."""
    lm = tiny_lm(seed, **MODEL)
    _learn(lm, base_chapters(seed, steps), steps, "base")
    save_model(lm, out)


def _learn(
    lm: LMModel, batches: Iterator[tuple[Tensor, Tensor | None]], steps: int, name: str
) -> None:
    """Train all of a model on chapters and what the other voice says beside them."""
    optimizer = torch.optim.AdamW(lm.parameters(), betas=(0.9, 0.95), weight_decay=0.01)
    for step, (codes, other) in enumerate(batches):
        for group in optimizer.param_groups:
            group["lr"] = _rate(step, steps)
        loss = training_loss(lm, codes, other)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(lm.parameters(), 1.0)
        optimizer.step()
        if step % 50 == 49:
            print(f"{name} step {step + 1}/{steps} loss {loss.item():.3f}", flush=True)


def training_chapters(seed: int, steps: int) -> Iterator[Tensor]:
    """A batch of chapters [B, 8, T] for every step; a function of its arguments alone."""
    frames = ROUNDS * LANGUAGE.round_frames
    batch = FRAMES_PER_STEP // frames
    for step in range(steps):
        without = 0.0 if step < TABLES_ONLY * steps else 0.5
        yield _chapters(without, (seed * steps + step) * batch % FRESH_SEED, batch, frames)


def base_chapters(seed: int, steps: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Chapters [B, 8, T] for every step of a base, and the other voice's codes beside them.

    Every second chapter has no structure. In half of the chapters the other voice says some frames
    one ahead, drawn one by one, and is silent else.
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


def training_loss(lm: LMModel, codes: Tensor, other: Tensor | None = None) -> Tensor:
    """Mean NLL with Moshi's weights, 100 for the semantic codebook, 1 for each acoustic one.

    `other` are the other voice's codes [B, 8, T]; None masks it. The text is padding, and learnt: a
    model that chooses its own text then says nothing.
    """
    batch, codebooks, frames = codes.shape
    text = torch.full((batch, 1, frames), lm.text_padding_token_id)
    if other is None:
        other = torch.full((batch, lm.n_q - codebooks, frames), ZERO_TOKEN)
    with no_compile():
        said = lm(torch.cat([text, codes, other], dim=1))
    nll = F.cross_entropy(said.logits.flatten(0, 2), codes.flatten(), reduction="none")
    nll = nll.view_as(codes)
    text_nll = F.cross_entropy(said.text_logits.flatten(0, 2), text.flatten())
    # The last frame's acoustic codes would be predicted one step later: NaN.
    semantic, acoustic = nll[:, 0].mean(), nll[:, 1:, :-1].mean((0, 2)).sum()
    weight = SEMANTIC_WEIGHT + codebooks - 1 + TEXT_WEIGHT
    return (SEMANTIC_WEIGHT * semantic + acoustic + TEXT_WEIGHT * text_nll) / weight


def save_model(lm: LMModel, folder: Path) -> None:
    """Write the base model in the published layout, and its TTT layers, if any, beside it."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(tiny_arguments(**MODEL), indent=2) + "\n")
    base = {k: t.contiguous() for k, t in lm.state_dict().items() if ".ttt." not in k}
    save_file(base, folder / "model.safetensors")
    if len(base) < len(lm.state_dict()):
        save_ttt(lm, folder)


def measure(baseline: LMModel, ttt: LMModel) -> dict[str, Any]:
    """Semantic loss of both by rounds of fresh chapters, with and without structure.

    Means over chapters with 95 % intervals that resample chapters, and the paired difference.
    """
    figures: dict[str, Any] = {}
    frames = MEASURED_ROUNDS * LANGUAGE.round_frames
    for structure, without in (("table", 0.0), ("none", 1.0)):
        codes = _chapters(without, FRESH_SEED, MEASURED_CHAPTERS, frames)
        lines = {"baseline": semantic_loss(baseline, codes), "ttt": semantic_loss(ttt, codes)}
        rounds = {}
        for first, end in _doubling(MEASURED_ROUNDS):
            place = slice(first * LANGUAGE.round_frames, end * LANGUAGE.round_frames)
            means = {name: line[:, place].mean(axis=1) for name, line in lines.items()}
            rounds[str(end) if end == first + 1 else f"{first + 1}-{end}"] = {
                **{
                    name: bootstrap_interval(mean, seed=0).to_dict() for name, mean in means.items()
                },
                "ttt - baseline": difference_interval(
                    means["ttt"], means["baseline"], seed=0
                ).to_dict(),
            }
        figures[structure] = rounds
    return figures


def semantic_loss(lm: LMModel, codes: Tensor) -> np.ndarray:
    """NLL [B, T] of the semantic code of every frame, streaming, as chapters are evaluated."""
    return evaluate_codes(lm, codes, text_stream="pad", chunk=64).nll[:, 0].double().numpy()


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


def _doubling(rounds: int) -> Iterator[tuple[int, int]]:
    """Rounds 1, 2, 3-4, 5-8, ... counted from 0."""
    first = 0
    while first < rounds:
        end = max(1, 2 * first)
        yield first, end
        first = end


def _rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _rounded(item) for key, item in value.items()}
    return round(value, 4) if isinstance(value, float) else value


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="folder for the models")
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--base", action="store_true", help="train a base model alone")
    parser.add_argument("--steps", type=int, help=f"{STEPS}, of a base {BASE_STEPS}")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.base:
        train_base(arguments.out, arguments.seed, arguments.steps or BASE_STEPS)
    else:
        train(arguments.out, arguments.seed, arguments.steps or STEPS)


def load_tiny_effect(name: Literal["baseline", "ttt"], folder: Path = ASSET) -> LMModel:
    """One of the two models, in float32 on the CPU.

    Raises:
        UserError: the folder does not hold such a model.
    """
    lm = load_moshi(str(folder / name), dtype="float32").lm
    if name == "ttt":
        load_ttt(lm, folder / name)
    return lm
