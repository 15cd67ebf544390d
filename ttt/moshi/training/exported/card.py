"""The card of what was trained in a Moshi: README.md of its folder."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from ttt.codebook_weights import FIRST_CODEBOOK_WEIGHT
from ttt.moshi.training.config import LoRAConfig, MoshiTrainingConfig, TTTLayersConfig
from ttt.moshi.training.validation.rows import BASE, TRAINED, differences
from ttt.training.trainee import Row

_NAMES = {
    "mean": "all frames",
    "in_window": "inside the window",
    "beyond_window": "beyond the window",
    "semantic": "beyond, semantic codebook",
    "acoustic": "beyond, acoustic codebooks",
}


@dataclass(frozen=True, kw_only=True)
class TrainedFacts:
    """What a run knows of what it trained."""

    base: str
    """Name of the base model, as `load_moshi` takes it."""
    base_fingerprint: str
    mimi: str | None
    """Name of the codec; None is the one beside the base model."""
    dtype: str
    """Precision of the base model."""
    lm_kwargs: Mapping[str, Any]
    """Arguments of the base model that replace those of its config.json."""
    start: str | None
    """The export that the run began with, where it did not draw its layers."""
    start_sha256: Mapping[str, str]
    """Of that export's files, by name."""
    config: MoshiTrainingConfig
    lora_rank: int | None
    """Of the LoRA that was trained."""
    step: int
    """After which these weights were taken."""
    data: str
    """What was heard, in words: the cache, its chapters, hours and speakers."""
    held_out: str
    """What validation heard, in words."""
    window: int
    """Frames that attention reaches back."""
    rows: Mapping[str, Row]
    """Of the validation of these weights, the base's among them; empty where there was none."""
    origin: Mapping[str, str]
    """What else is to be known: the commit, the configuration's digest, the date."""


def card(facts: TrainedFacts) -> str:
    """Markdown: what was trained, in what and on what, what validation found, how to hear it."""
    config = facts.config
    trained = [name for name, part in (("TTT layers", config.ttt), ("LoRA", config.lora)) if part]
    return f"""# {" and ".join(trained)} for Moshi

Trained in `{facts.base}` ({_base(facts)}), whose own weights were never changed and are not in
this folder.

{chr(10).join(f"- {line}" for line in _lines(facts))}

## Measured

{_measured(facts)}

## Heard

```bash
python -m ray_jobs.evaluate_chapters --config configs/librilight.yaml \\
    {_model(facts)} data.root=FOLDER output=runs/chapters
python -m ray_jobs.evaluate_pairs --config configs/paper_metrics.yaml \\
    {_model(facts)} output=runs/pairs
```

## Origin

{chr(10).join(f"- {name}: {value}" for name, value in facts.origin.items())}
"""


def _base(facts: TrainedFacts) -> str:
    replaced = f", with {json.dumps(dict(facts.lm_kwargs))}" if facts.lm_kwargs else ""
    return f"fingerprint `{facts.base_fingerprint}`, {facts.dtype}{replaced}"


def _model(facts: TrainedFacts) -> str:
    """The keys of an evaluation that name this model, for a shell."""
    keys = {
        "weights": facts.base,
        "mimi": facts.mimi,
        "dtype": facts.dtype,
        "lm_kwargs": json.dumps(dict(facts.lm_kwargs)) if facts.lm_kwargs else None,
        "ttt" if facts.config.ttt is not None else "lora": "THIS_FOLDER",
    }
    return " ".join(
        shlex.quote(f"model.{key}={value}") for key, value in keys.items() if value is not None
    )


def _lines(facts: TrainedFacts) -> Iterator[str]:
    config = facts.config
    if config.ttt is not None:
        yield _ttt_line(config.ttt)
    if config.lora is not None:
        yield _lora_line(config.lora, facts.lora_rank)
    if facts.start is not None:
        files = ", ".join(f"{name} {digest[:12]}" for name, digest in facts.start_sha256.items())
        yield f"started from: {facts.start} (sha256: {files}); the steps below are those after it"
    stages = "; ".join(f"{each.steps:,} with windows of {each.frames:,}" for each in config.stages)
    total = sum(stage.steps for stage in config.stages)
    yield f"steps: the weights after step {facts.step:,} of {total:,} ({stages} frames)"
    first = FIRST_CODEBOOK_WEIGHT[config.weights]
    yield (
        f"loss: audio codes alone, the semantic codebook {first:g} times as heavy as an acoustic "
        f"one; text: {config.text}, the other voice: {config.other}"
    )
    yield f"trained on: {facts.data}"
    yield f"held out: {facts.held_out}"


def _ttt_line(config: TTTLayersConfig) -> str:
    context, layers = config.attention_context, ", ".join(map(str, config.layers))
    noun = "layer" if len(config.layers) == 1 else "layers"
    reach = (
        "" if context is None else f"; attention of these layers reaches back {context:,} frames"
    )
    momentum = ", momentum" if config.momentum else ""
    return (
        f"TTT-{config.kind} ({config.flavour}{momentum}) after the attention of {noun} {layers}, "
        f"mini-batches of {config.mini_batch_size} frames, inner learning rate {config.base_lr:g}"
        f"{reach}"
    )


def _lora_line(config: LoRAConfig, rank: int | None) -> str:
    matched = " (as many parameters as TTT layers would have)" if config.match else ""
    return (
        f"LoRA of rank {rank}{matched}, scaling {config.scaling:g}, on {', '.join(config.targets)} "
        "of the temporal transformer"
    )


def _measured(facts: TrainedFacts) -> str:
    if not facts.rows:
        return "Nothing: the run had no validation."
    trained, base, change = facts.rows[TRAINED], facts.rows[BASE], differences(facts.rows)
    lines = ["| loss in nats | base | trained | difference |", "|---|---|---|---|"]
    for name, words in _NAMES.items():
        if name in change:
            cells = f"{base[name]:.4f} | {trained[name]:.4f} | {change[name]:+.4f}"
            lines.append(f"| {words} | {cells} |")
    return "\n".join(lines) + (
        f"\n\nMeans over the spans that validation heard, by the streaming evaluation and of this "
        f"folder's weights. The window is the {facts.window:,} frames that attention reaches back. "
        "These spans chose the step, so a result needs other chapters."
    )
