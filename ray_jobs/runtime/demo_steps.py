"""The commands of `make demo`, each one that you could type yourself.

Those of the decoder follow each other and take the time; those of the listener need nothing of
them and run beside, with one worker each, on the core that training leaves free.
"""

from __future__ import annotations

from pathlib import Path

from ray_jobs.runtime.side_by_side import Step


def steps(folder: Path) -> list[Step]:
    """The commands after the audio is there, those first that others wait for."""
    return [*decoder_steps(folder), *chapter_steps(folder), pairs_step(folder)]


def decoder_steps(folder: Path) -> list[Step]:
    """From audio to a decoder, its verdict and what it decodes."""
    cache, run = folder / "cache", folder / "train"
    return [
        Step(
            name="cache",
            what="codes of the speech, once",
            module="ray_jobs.cache_codes",
            arguments=(
                *("--config", "configs/cache_folder.yaml"),
                f"input.audio={folder / 'audio'}",
                f"output={cache}",
                "codec.name=tiny",
                "clips_per_shard=11",
            ),
        ),
        Step(
            name="train",
            what="a 48 kHz decoder on them, the longest step",
            module="ray_jobs.train_decoder",
            arguments=(
                *("--config", "configs/train_tiny_cpu.yaml"),
                # Of the file's nine epochs the first four: every phase and segment length.
                *("curriculum.epochs=4", "curriculum.stages.3.last_epoch=4"),
                f"data.train={cache}",
                f"run={run}",
            ),
            after=("cache",),
        ),
        Step(
            name="evaluate",
            what="it against resampling and cheap tricks, on clips it was not trained on",
            module="ray_jobs.evaluate_decoder",
            arguments=(
                *("--config", "configs/evaluate_decoder.yaml"),
                f"decoder={run}",
                "codec=tiny",
                f"data.audio={folder / 'unseen'}",
                "data.speaker=folder:1",
                "report.visqol_clips=5",  # Half a minute each, where it is installed.
                f"output={folder / 'evaluation'}",
            ),
            after=("train",),
        ),
        Step(
            name="decode",
            what="wav files from codes",
            module="ray_jobs.decode_codes",
            arguments=(
                *("--config", "configs/decode.yaml"),
                f"decoder={run / 'export'}",
                f"input={cache}",
                "limit=4",
                f"output={folder / 'decoded'}",
            ),
            after=("train",),
        ),
    ]


def chapter_steps(folder: Path) -> list[Step]:
    """A baseline and a TTT model where there is something to remember, and where there is not."""
    return [
        Step(
            name="effect",
            what="a baseline and a TTT model where remembering helps",
            module="ray_jobs.evaluate_chapters",
            arguments=(
                *("--config", "configs/chapters_effect.yaml"),
                "group_size=6",  # Steps that verify_spans takes are then shared by six chapters.
                "cluster.num_workers=1",
                f"output={folder / 'chapters_effect'}",
            ),
        ),
        Step(
            name="null",
            what="the same where there is nothing to remember",
            module="ray_jobs.evaluate_chapters",
            arguments=(
                *("--config", "configs/chapters_null.yaml"),
                "cluster.num_workers=1",
                f"output={folder / 'chapters_null'}",
            ),
        ),
    ]


def pairs_step(folder: Path) -> Step:
    """The benchmarks made of pairs, with and without silence codes in the text stream."""
    made = folder / "benchmarks"
    return Step(
        name="pairs",
        what="benchmarks made of pairs",
        module="ray_jobs.evaluate_pairs",
        arguments=(
            *("--config", "configs/pairs_tiny_cpu.yaml"),
            f"tasks.swuggy.root={made / 'sLM21' / 'lexical'}",
            f"tasks.tstory.root={made / 'tStoryCloze'}",
            *(f"tasks.{left_out}=null" for left_out in ("sblimp", "sstory", "salmon")),
            "against.silence_as_text.text=silence_codes",
            "cluster.num_workers=1",
            f"output={folder / 'pairs'}",
        ),
    )
