"""Five-fold over recorded 48 kHz audio: does the decoder beat resampling, and the cheap tricks?

    python -m benchmarks.recorded AUDIO [OUTPUT] [RECIPE]

AUDIO is a folder of recordings. RECIPE, as it stands in git, is one of

    plain        configs/train_tiny_cpu.yaml (the default)
    level        configs/train_level_tiny_cpu.yaml on clips and two copies of each at other levels:
                 band levels in the loss, and a noise floor fitted on three folds
    adversarial  configs/train_adversarial_tiny_cpu.yaml
    longer       plain with twice the epochs at the last length: about the time of adversarial

Each fold caches, trains and evaluates with the commands a user types: the tiny codec, on the clips
of the other four folds; of those it holds a fifth out, which choose its best checkpoint and the
tricks' levels. No clip is measured by a decoder that it taught or chose anything of. The clips of
all folds together are judged once, as `evaluate_decoder` judges them. A quarter of an hour on two
cores (level: an hour); stopped, it goes on where it was.
"""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ttt import records
from ttt.snac.evaluation.systems import METRIC_NAMES, SYSTEM_NAMES, with_tricks
from ttt.snac.evaluation.visqol import summarize_visqol
from ttt.snac.export import read_config
from ttt.snac.verdict import describe_interval, summarize


@dataclass(frozen=True)
class Recipe:
    """How each fold's decoder comes about."""

    training: str
    """The configuration of the training."""
    caching: tuple[str, ...] = ()
    """Words for the caching of what it trains on."""
    changes: tuple[str, ...] = ()
    """Words that change its configuration."""


RECIPES = {
    "plain": Recipe("configs/train_tiny_cpu.yaml"),
    "level": Recipe("configs/train_level_tiny_cpu.yaml", ("input.gain_copies_db={}",)),
    "adversarial": Recipe("configs/train_adversarial_tiny_cpu.yaml"),
    "longer": Recipe(
        "configs/train_tiny_cpu.yaml",
        changes=("curriculum.epochs=18", "curriculum.stages.3.last_epoch=18"),
    ),
}
FOLDS = 5
SEED = 0
RESAMPLES = 2000
AUDIO = {".flac", ".wav"}


def main(audio: Path, output: Path, recipe: str = "plain") -> None:
    """Run what is missing of every fold; print and write the verdict on all clips."""
    clips = sorted(path.resolve() for path in audio.iterdir() if path.suffix in AUDIO)
    lines, rows, fitted = [], [], []
    for fold in range(FOLDS):
        folder = output / f"fold-{fold}"
        held_out = clips[fold::FOLDS]
        _link(folder / "train", [clip for clip in clips if clip not in held_out])
        _link(folder / "held_out", held_out)
        _run(folder, RECIPES[recipe])
        measured = list(records.read_jsonl(folder / "evaluation" / "results.jsonl"))
        lines += measured
        fitted.append(read_config(folder / "run" / "export").tricks)
        rows += with_tricks([line["systems"] for line in measured], fitted[-1], None)
    judged = summarize(rows, SEED, RESAMPLES)
    summary = {
        "recipe": recipe,
        "clips": len(lines),
        "seconds": sum(line["seconds"] for line in lines),
        **judged,
        "visqol": summarize_visqol(
            [line.get("visqol") for line in lines],
            [None] * len(lines),
            judged["verdict"],
            seed=SEED,
            resamples=RESAMPLES,
        ),
        "tricks_by_fold": [None if tricks is None else tricks.to_dict() for tricks in fitted],
        "git_commit": records.git_commit(),
    }
    records.write_json(output / "summary.json", summary)
    print(_table(summary))


def _table(summary: dict[str, Any]) -> str:
    """Every row as the report shows it, and the verdict."""
    opinions = summary["visqol"].get("systems", {})
    names = ["", *METRIC_NAMES.values(), "ViSQOL"]
    lines = ["| " + " | ".join(names) + " |", "|---" * len(names) + "|"]
    for system, metrics in summary["systems"].items():
        cells = [describe_interval(metrics[metric]) for metric in METRIC_NAMES]
        cells.append(describe_interval(opinions[system]) if system in opinions else "–")
        lines.append("| " + " | ".join([SYSTEM_NAMES[system], *cells]) + " |")
    verdict = summary["verdict"]
    said = f"{verdict['heading']}: {' '.join(verdict['sentences'])}"
    return "\n".join([*lines, "", said, summary["visqol"]["sentence"]])


def _link(folder: Path, clips: list[Path]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for clip in clips:
        link = folder / clip.name
        if not link.exists():
            link.symlink_to(clip)


def _run(folder: Path, recipe: Recipe) -> None:
    cache, run, evaluation = folder / "cache", folder / "run", folder / "evaluation"
    if not (cache / "summary.json").exists():
        _job(
            *("cache_codes", "--config", "configs/cache_folder.yaml", "codec.name=tiny"),
            *(f"input.audio={folder / 'train'}", f"output={cache}", *recipe.caching),
            "cluster.num_workers=0",
        )
    if not (run / "export").exists():
        _job(
            *("train_decoder", "--config", recipe.training, "--resume-if-begun"),
            *(f"data.train={cache}", f"run={run}", "data.validation_share=0.2"),
            *("cluster.num_workers=0", *recipe.changes),
        )
    if not (evaluation / "summary.json").exists():
        _job(
            *("evaluate_decoder", "--config", "configs/evaluate_decoder.yaml", "codec=tiny"),
            *(f"decoder={run}", f"data.audio={folder / 'held_out'}", f"output={evaluation}"),
            *("--resume-if-begun", "cluster.num_workers=0"),
        )


def _job(name: str, *arguments: str) -> None:
    subprocess.run([sys.executable, "-m", f"ray_jobs.{name}", *arguments], check=True)


if __name__ == "__main__":
    words = sys.argv[1:]
    if not 1 <= len(words) <= 3 or (words[2:] and words[2] not in RECIPES):
        sys.exit(__doc__)
    main(Path(words[0]), Path(words[1] if len(words) > 1 else "runs/recorded"), *words[2:])
