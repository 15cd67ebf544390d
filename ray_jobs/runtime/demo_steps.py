"""The commands of `make demo`, each one that you could type yourself."""

from __future__ import annotations

from pathlib import Path


def steps(folder: Path) -> list[list[str]]:
    """The commands after the audio is there: module, then its arguments."""
    cache, run = folder / "cache", folder / "train"
    return [
        [
            "ray_jobs.cache_codes",
            *("--config", "configs/cache_folder.yaml"),
            f"input.audio={folder / 'audio'}",
            f"output={cache}",
            "codec.name=tiny",
            "clips_per_shard=11",
        ],
        [
            "ray_jobs.train_decoder",
            *("--config", "configs/train_tiny_cpu.yaml"),
            f"data.train={cache}",
            f"run={run}",
        ],
        [
            "ray_jobs.evaluate_decoder",
            *("--config", "configs/evaluate_decoder.yaml"),
            f"decoder={run}",
            "codec=tiny",
            f"data.audio={folder / 'unseen'}",
            "data.speaker=folder:1",
            "report.visqol_clips=5",  # Half a minute each, where it is installed.
            f"output={folder / 'evaluation'}",
        ],
        [
            "ray_jobs.decode_codes",
            *("--config", "configs/decode.yaml"),
            f"decoder={run / 'export'}",
            f"input={cache}",
            "limit=4",
            f"output={folder / 'decoded'}",
        ],
        [
            "ray_jobs.evaluate_chapters",
            *("--config", "configs/chapters_effect.yaml"),
            "group_size=6",  # Steps that verify_spans takes are then shared by six chapters.
            f"output={folder / 'chapters_effect'}",
        ],
        [
            "ray_jobs.evaluate_chapters",
            *("--config", "configs/chapters_null.yaml"),
            f"output={folder / 'chapters_null'}",
        ],
        pairs_step(folder),
    ]


def pairs_step(folder: Path) -> list[str]:
    """The benchmarks made of pairs, with and without silence codes in the text stream."""
    made = folder / "benchmarks"
    return [
        "ray_jobs.evaluate_pairs",
        *("--config", "configs/pairs_tiny_cpu.yaml"),
        f"tasks.swuggy.root={made / 'sLM21' / 'lexical'}",
        f"tasks.tstory.root={made / 'tStoryCloze'}",
        *(f"tasks.{left_out}=null" for left_out in ("sblimp", "sstory", "salmon")),
        "against.silence_as_text.text=silence_codes",
        f"output={folder / 'pairs'}",
    ]
