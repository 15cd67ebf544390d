"""`--dry-run` ends as the run would, where a folder is taken or there is nothing to resume."""

from __future__ import annotations

import pkgutil
from collections.abc import Callable
from pathlib import Path

import pytest

from ray_jobs.config.schema import JOB_CONFIGS
from tests.ray_jobs.nano_training import World
from tests.ttt.moshi.original_files import ttt_tensors, write_checkpoint
from tests.tune_world import write_world as write_tune_world
from ttt.snac.load import load_codec
from ttt.snac.model import Decoder48k
from ttt.synthetic.pairs import say_by_arithmetic, write_fixtures

GO_ON_BY_THEMSELVES = {"cache_codes", "cache_chapters"}
"""Their plans look into the output; test_cache_codes and test_cache_chapters try them."""
NO_FOLDER = {"decode_codes", "export_onnx", "push_decoder"}
"""They write files among others, one file, or to the hub, and have tests of their own."""

TINY = ["model.weights=tiny", "model.mimi=tiny", "model.dtype=float32", "cluster.gpus_per_worker=0"]
CHAPTERS = ["data=null", "synthetic={chapters: 2, frames: 60}", "streams.other=masked"]
ALL = [f"chapters.{each}" for each in CHAPTERS]
FOUR = ("sblimp", "tstory", "sstory", "salmon")

Words = Callable[[str], list[str]]


@pytest.fixture(scope="module")
def words(
    tmp_path_factory: pytest.TempPathFactory,
    world: World,
    ttt_world: World,
    small_export: Path,
    small_codec: Path,
    recordings: Path,
) -> Words:
    """Job -> the words of a small one, but for where it writes."""
    folder = tmp_path_factory.mktemp("dry")
    swuggy = write_fixtures(folder, say_by_arithmetic)["swuggy"]
    checkpoint = write_checkpoint(folder / "original", ttt_tensors())
    decoder = [f"codec={small_codec}", f"data.audio={recordings}"]
    pairs = [f"tasks.swuggy.root={swuggy}", *(f"tasks.{name}=null" for name in FOUR)]
    made = {
        "train_decoder": ["--config", str(world.config)],
        "train_ttt": ["--config", str(ttt_world.config)],
        "tune_decoder": ["--config", str(write_tune_world(folder / "sweep"))],
        "evaluate_decoder": ["--config=configs/evaluate_decoder.yaml", *decoder],
        "evaluate_chapters": ["--config=configs/librilight.yaml", *TINY, *CHAPTERS],
        "evaluate_pairs": ["--config=configs/paper_metrics.yaml", *TINY, *pairs],
        "evaluate_all": [
            *("--config=configs/evaluate_all.yaml", *TINY, *ALL),
            *(f"pairs.{each}" for each in pairs),
        ],
        "import_ttt": [f"input={checkpoint}"],
    }
    assert set(made) == set(JOB_CONFIGS) - GO_ON_BY_THEMSELVES - NO_FOLDER
    made["evaluate_decoder"].append(f"decoder={small_export}")
    other = folder / "other"
    Decoder48k.from_snac(load_codec(small_codec).model).save_pretrained(other)
    made["two decoders"] = [
        *("--config=configs/evaluate_decoder.yaml", *decoder),
        f"decoder=[{small_export}, {other}]",
    ]
    return made.__getitem__


@pytest.mark.parametrize(
    "job",
    [*sorted(set(JOB_CONFIGS) - GO_ON_BY_THEMSELVES - NO_FOLDER), "two decoders"],
)
def test_a_dry_run_refuses_the_folder_that_the_run_would_refuse(
    job: str, words: Words, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main = pkgutil.resolve_name(f"ray_jobs.{job.replace('two decoders', 'evaluate_decoder')}:main")
    key = "run" if job.startswith(("train", "tune")) else "output"
    folder = tmp_path / "here"
    dry = [*words(job), f"{key}={folder}", "--dry-run"]

    assert main(dry) == 0, capsys.readouterr().err
    assert main([*dry, "--resume-if-begun"]) == 0
    assert not folder.exists()
    assert main([*dry, "--resume"]) == 2
    assert f"{folder}: nothing to resume" in capsys.readouterr().err

    folder.mkdir()
    (folder / "thesis.tex").touch()
    assert main(dry) == 2
    told = capsys.readouterr()
    assert f"{folder}: not empty (thesis.tex)" in told.err
    assert told.out, "the plan is printed all the same"
    assert [path.name for path in folder.iterdir()] == ["thesis.tex"]


def test_a_dry_run_refuses_to_resume_under_another_plan(
    finished: Path, world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    goes_on = ["--resume", "--dry-run"]
    assert world.main(finished, *goes_on, "tracking.tensorboard=true") == 0
    assert world.main(finished, *goes_on, "loss.l1_weight=2") == 2
    assert "loss.l1_weight" in capsys.readouterr().err
