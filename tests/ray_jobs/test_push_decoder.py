"""A decoder goes from an evaluation to the hub and from there, by name, into every job."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from ray_jobs import decode_codes, evaluate_decoder, push_decoder
from ray_jobs.config.load import dump_yaml
from ray_jobs.decoder.decode import describe, plan_decode
from ray_jobs.decoder.evaluate.plan import describe as describe_evaluation
from ray_jobs.decoder.evaluate.plan import plan_evaluation
from ray_jobs.decoder.evaluate_config import DecodeConfig, EvaluateConfig, EvaluationDataConfig
from ray_jobs.decoder.source import find_decoder
from ray_jobs.decoder.train_config import DataConfig, TrainConfig
from tests.hub_server import HubServer
from tests.ray_jobs.test_decoder_source import run as run
from ttt.errors import UserError
from ttt.snac.evaluation.systems import OURS

NAME = "anna/voice48"
ROOT = Path(__file__).resolve().parents[2]


def push(export: Path, *words: str) -> int:
    return push_decoder.main([f"decoder={export}", f"repo={NAME}", *words])


def header_of(hub: HubServer) -> dict:
    return yaml.safe_load(hub.repositories[NAME].files["README.md"].decode().split("---\n")[1])


@pytest.fixture
def export(small_export: Path, tmp_path: Path) -> Path:
    return shutil.copytree(small_export, tmp_path / "export")


def test_an_evaluated_decoder_is_pushed_with_its_numbers_and_used_by_name(
    hub: HubServer,
    export: Path,
    small_codec: Path,
    small_cache: Path,
    recordings: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    measured = [
        f"codec={small_codec}", f"data.audio={recordings}", "min_coverage=0.5",
        "bootstrap.resamples=200", "report.examples=0", "report.visqol=false",
        "cluster.num_workers=0",
    ]  # fmt: skip
    out = tmp_path / "evaluation"
    assert evaluate_decoder.main([f"decoder={export}", f"output={out}", *measured]) == 0
    summary = json.loads((out / "summary.json").read_text())
    assert push(export, "license=apache-2.0") == 0
    header = header_of(hub)
    (result,) = header["model-index"][0]["results"]
    numbers = {metric["type"]: metric["value"] for metric in result["metrics"]}
    expected = {
        name: interval["mean"]
        for name, interval in summary["systems"][OURS].items()
        if interval["mean"] is not None
    }
    assert numbers == pytest.approx(expected, rel=1e-2, abs=1e-4)
    assert list(numbers) == header["metrics"]
    assert result["dataset"]["name"] == f"{recordings.name}, 2 clips"
    card = hub.repositories[NAME].files["README.md"].decode()
    assert str(recordings.parent) not in card  # Whose folders they were is nobody's business.
    assert "base_model" not in header  # The codec was a folder.
    told = capsys.readouterr().out
    assert "numbers: measured by an evaluation: lsd, lsd_lf" in told
    assert f"pushed: {hub.endpoint}/{NAME}/commit/{hub.repositories[NAME].head}" in told
    assert f"load it: Decoder48k.from_pretrained('{NAME}')" in told

    assert push(export, "license=apache-2.0") == 0
    assert "nothing has changed since: http" in capsys.readouterr().out

    # By name into the other jobs: the same numbers, the same audio.
    again, readme = tmp_path / "again", export / "README.md"
    before = readme.read_bytes()
    assert evaluate_decoder.main([f"decoder={NAME}", f"output={again}", *measured]) == 0
    theirs = json.loads((again / "summary.json").read_text())
    assert theirs["systems"] == summary["systems"]
    commit = hub.repositories[NAME].head[:12]
    assert theirs["decoder"]["source"] == f"export on the hub (commit {commit})"
    assert readme.read_bytes() == before
    folder = find_decoder(NAME).export
    assert folder is not None
    assert sorted(os.listdir(folder)) == ["config.json", "model.safetensors"]
    words = [f"input={small_cache}", "cluster.num_workers=0", "limit=1"]
    for name, decoder in (("here", str(export)), ("there", f"{NAME}@main")):
        output = f"output={tmp_path / name}"
        assert decode_codes.main([f"decoder={decoder}", output, *words]) == 0
    wavs = [next((tmp_path / name).rglob("*.wav")).read_bytes() for name in ("here", "there")]
    assert wavs[0] == wavs[1]
    # Workers read a copy beside the results, which every node sees.
    copied = tmp_path / "there" / "decoder" / "model.safetensors"
    assert copied.read_bytes() == (export / "model.safetensors").read_bytes()
    assert not copied.is_symlink()


def test_plans_say_which_commit_it_is(
    hub: HubServer, export: Path, small_cache: Path, small_codec: Path, tmp_path: Path
) -> None:
    assert push(export, "license=mit") == 0
    named = f"export on the hub (commit {hub.repositories[NAME].head[:12]}) {NAME}"
    output = str(tmp_path / "out")
    decoding = DecodeConfig(decoder=NAME, input=str(small_cache), output=output)
    assert f"decoder: {named}" in describe(plan_decode(decoding))
    evaluation = EvaluateConfig(
        decoder=NAME,
        codec=str(small_codec),
        output=output,
        data=EvaluationDataConfig(cache=str(small_cache)),
    )
    told = describe_evaluation(plan_evaluation(evaluation))
    assert f"decoder: {named}, codec" in told
    assert "README.md" not in told
    source = find_decoder(f"{NAME}@main")
    assert (source.run, source.training, source.history()) == (None, None, [])


def test_a_dry_run_asks_and_writes_nothing(
    hub: HubServer, export: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert push(export, "license=mit", "private=true", "--dry-run") == 0
    assert hub.repositories == {}
    assert {path for method, path in hub.requests if method != "GET"} == {"/api/validate-yaml"}
    told = capsys.readouterr().out
    assert told.startswith(f"push export {export} to {hub.endpoint}/{NAME}: a new repository, pri")
    assert "license: mit\n" in told
    assert "base model: not named" in told
    assert "numbers: none; ray_jobs.evaluate_decoder" in told
    assert push(export, "license=mit") == 0
    assert push(export, "license=mit", "--dry-run") == 0
    assert f": a commit after {hub.repositories[NAME].head[:12]}" in capsys.readouterr().out


def test_a_runs_codec_is_the_base_model_where_the_hub_has_it(
    hub: HubServer, run: Path, export: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = TrainConfig(run=str(run), codec="someone/snac", data=DataConfig(train="cache"))
    (run / "config.yaml").write_text(dump_yaml(config))
    shutil.copytree(export, run / "export")
    assert push(run, "license=mit") == 0
    assert header_of(hub)["base_model"] == "someone/snac"
    assert push(run, "license=mit", "base_model=hubertsiuzdak/snac_24khz") == 0
    assert header_of(hub)["base_model"] == "hubertsiuzdak/snac_24khz"
    readme = run / "export" / "README.md"
    readme.write_text("---\nbase_model: an/author\nlicense: mit\n---\n# Text\n")
    assert push(run) == 0
    assert header_of(hub)["base_model"] == "an/author"


def test_a_run_without_an_export_is_pushed_from_its_best_checkpoint(
    hub: HubServer, run: Path, tmp_path: Path
) -> None:
    assert push(run, "license=mit") == 0
    made = find_decoder(str(run)).export_into(tmp_path / "made")
    ours = (made / "model.safetensors").read_bytes()
    assert hub.repositories[NAME].files["model.safetensors"] == ours
    assert "base_model" not in header_of(hub)  # Its codec is a folder.


def test_what_cannot_be_pushed_is_one_sentence(
    hub: HubServer,
    export: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    for folder, words, told in (
        (export, [], "error: license is not set, and none is assumed; give the hub's identifier"),
        (export, ["license=MIT License"], "error: license 'MIT License': give the hub's"),
        (export, ["license=mine"], 'the hub refuses the header of the card ("license" must be'),
        (export, ["license=mit", "base_model=snac"], "base_model must be USER/NAME on the hub"),
        (export, ["license=mit", "repo=voice48"], "repo must be USER/NAME on the hub, got voice48"),
        (export, ["license=mit", "repo=bob/x"], "the token may not write there (403)"),
        (empty, ["license=mit"], "neither an exported decoder (config.json, model.safetensors)"),
        (tmp_path / "absent", ["license=mit"], "absent: no such folder; give an export"),
        (Path("runs/absent"), ["license=mit"], "decoder=runs/absent: no such folder; give an"),
        (Path("bob/x@v1"), ["license=mit"], "what is on the hub already is not pushed again"),
    ):
        assert push(folder, *words) == 2, words
        error = capsys.readouterr().err
        assert told in error, error
        lines = [line for line in error.splitlines() if not line.startswith("error: command line")]
        assert len([line for line in lines if told in line]) == 1
        assert "hf_annas_secret" not in error
    monkeypatch.delenv("HF_TOKEN")
    assert push(export, "license=mit") == 2
    assert "error: anna/voice48: pushing needs a token; set HF_TOKEN" in capsys.readouterr().err
    hub.close()
    monkeypatch.setenv("HF_TOKEN", "hf_annas_secret")
    assert push(export, "license=mit") == 2
    error = capsys.readouterr().err
    assert f"error: {NAME}: {hub.endpoint} does not answer (" in error
    assert "hf_annas_secret" not in error
    assert hub.repositories == {}


def test_a_token_is_no_key_and_is_not_shown(
    hub: HubServer, export: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert push(export, "license=mit", "token=hf_typed_secret") == 2
    assert push(export, "license=mit", "--print-config") == 0
    assert push(export, "license=mit") == 0
    shown = "".join(capsys.readouterr())
    assert "token: unknown key" in shown
    assert "secret" not in shown
    pushed = hub.repositories[NAME].files
    assert not any(b"secret" in content for content in pushed.values())


def test_what_jobs_cannot_get_from_the_hub_is_one_sentence(
    hub: HubServer, export: Path, small_cache: Path, tmp_path: Path
) -> None:
    assert push(export, "license=mit") == 0
    hub.add(
        "hubertsiuzdak/snac_24khz", {"config.json": (b'{"vq_strides": [], "decoder_rates": []}')}
    )

    def refused(decoder: str) -> str:
        config = DecodeConfig(decoder=decoder, input=str(small_cache), output=str(tmp_path / "o"))
        with pytest.raises(UserError) as refusal:
            plan_decode(config)
        assert "\n" not in str(refusal.value)
        return str(refusal.value)

    assert "has no revision v7" in refused(f"{NAME}@v7")
    assert "neither a folder here nor a repository" in refused("runs/voise")
    assert "a SNAC codec and not a 48 kHz decoder" in refused("hubertsiuzdak/snac_24khz")
    hub.close()
    assert "does not answer" in refused("anna/new")
    assert not (tmp_path / "o").exists()


FRESH = f"""
import sys
import torch
from ttt.snac.model import Decoder48k, deterministic
codes = [torch.zeros(1, n, dtype=torch.long) for n in (2, 4, 8)]
for revision in sys.argv[1:]:
    decoder = Decoder48k.from_pretrained("{NAME}", revision=revision)
    with deterministic(decoder):
        audio = decoder.decode(codes)
    print(tuple(audio.shape), float(audio.abs().sum()))
"""


def test_programs_of_their_own_find_it_by_their_variables(
    hub: HubServer, export: Path, tmp_path: Path
) -> None:
    outside = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    there = {**outside, "HF_ENDPOINT": hub.endpoint, "HF_HOME": str(tmp_path / "home")}

    def python(*words: str, **variables: str) -> subprocess.CompletedProcess[str]:
        command, together = [sys.executable, *words], there | variables
        return subprocess.run(command, cwd=ROOT, env=together, capture_output=True, text=True)

    words = [f"decoder={export}", f"repo={NAME}", "license=mit"]
    done = python("-m", "ray_jobs.push_decoder", *words, HF_TOKEN="hf_annas_secret")
    assert done.returncode == 0, done.stderr
    assert "secret" not in done.stdout + done.stderr
    commit = hub.repositories[NAME].head
    online = python("-c", FRESH, "main")
    assert online.returncode == 0, online.stderr
    assert online.stdout.startswith("(1, 1, 8192) ")
    hub.close()
    offline = python("-c", FRESH, "main", commit, "absent", HF_HUB_OFFLINE="1")
    assert offline.stdout == 2 * online.stdout
    assert f"UserError: {NAME}@absent: neither a folder here nor in the cache" in offline.stderr
