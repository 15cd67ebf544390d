"""Decoders are pushed to a hub and loaded by name, and what the hub refuses is one sentence.

The hub is a server behind a real socket; huggingface_hub talks to it as it would to the public one.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml
from huggingface_hub import configure_http_backend, constants
from safetensors.torch import load_file, save_file

from tests.conftest import build_nano_snac
from tests.hub_server import LFS_FROM_BYTES, HubServer
from ttt.errors import UserError
from ttt.snac.export import snac_config
from ttt.snac.hub import export_folder, fetch_export, hub_card, is_hub_name, push_export
from ttt.snac.hub.card import measured_card
from ttt.snac.model import Decoder48k, deterministic

NAME = "anna/voice48"
NUMBERS = {"lsd": (1.2346, "LSD 1.235 [1.1, 1.3]"), "env_r": (0.5, "env-r 0.500 [0.4, 0.6]")}


def decoder(seed: int = 0) -> Decoder48k:
    model = Decoder48k.from_snac(build_nano_snac(), seed=seed).eval()
    with torch.no_grad():
        for parameter in model.head_parameters():
            parameter.add_(0.01 * torch.randn_like(parameter))
    return model


@pytest.fixture
def export(tmp_path: Path) -> Path:
    decoder().save_pretrained(tmp_path / "export")
    return tmp_path / "export"


@pytest.fixture
def pushed(hub: HubServer, export: Path) -> HubServer:
    push_export(export, NAME, license="mit")
    return hub


def header_of(card: bytes) -> dict:
    return yaml.safe_load(card.decode().split("---\n")[1])


def go_offline(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(constants, "HF_HUB_OFFLINE", True)
    configure_http_backend()


def refused(call: Callable[[], object]) -> str:
    with pytest.raises(UserError) as refusal:
        call()
    sentence = str(refusal.value)
    assert "\n" not in sentence
    assert "hf_" not in sentence.replace("hf_hub", "").replace(NAME, "")
    return sentence


# There and back.


def test_what_is_pushed_decodes_the_same_audio_by_name(pushed: HubServer, export: Path) -> None:
    ours, theirs = Decoder48k.from_pretrained(export), Decoder48k.from_pretrained(NAME)
    codes = [torch.randint(0, 64, (2, n)) for n in ours.geometry.lengths(3)]
    with deterministic(ours), deterministic(theirs):
        assert torch.equal(ours.decode(codes), theirs.decode(codes))
    files = pushed.repositories[NAME].files
    assert sorted(files) == [".gitattributes", "README.md", "config.json", "model.safetensors"]
    for name in ("config.json", "model.safetensors"):
        assert files[name] == (export / name).read_bytes()
    assert len(files["model.safetensors"]) > LFS_FROM_BYTES > len(files["config.json"])
    assert any(path.endswith("/lfs/objects/batch") for _, path in pushed.requests)
    assert f'Decoder48k.from_pretrained("{NAME}")'.encode() in files["README.md"]
    assert "this folder" in (export / "README.md").read_text()  # The export stays as it is.


def test_a_decoder_in_memory_is_pushed(hub: HubServer) -> None:
    model = decoder()
    url = model.push_to_hub(NAME, license="cc-by-4.0", base_model="hubertsiuzdak/snac_24khz")
    repository = hub.repositories[NAME]
    assert url == f"{hub.endpoint}/{NAME}/commit/{repository.head}"
    assert len(repository.commits) == 2  # The one that made it, and one push.
    header = header_of(repository.files["README.md"])
    assert (header["license"], header["base_model"]) == ("cc-by-4.0", "hubertsiuzdak/snac_24khz")
    loaded = Decoder48k.from_pretrained(NAME)
    state = loaded.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())


def test_a_new_repository_is_as_private_as_asked(hub: HubServer, export: Path) -> None:
    for name, private in (("anna/a", None), ("anna/b", True), ("anna/c", False)):
        push_export(export, name, license="mit", private=private)
        assert hub.repositories[name].private == bool(private)
        push_export(export, name, license="apache-2.0", private=private)
        assert header_of(hub.repositories[name].files["README.md"])["license"] == "apache-2.0"
    assert Decoder48k.from_pretrained("anna/b").sampling_rate == 48_000


def test_the_same_again_makes_no_commit(pushed: HubServer, export: Path) -> None:
    before = list(pushed.repositories[NAME].commits)
    push_export(export, NAME, license="mit")
    assert list(pushed.repositories[NAME].commits) == before


def test_revisions(pushed: HubServer, export: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    repository = pushed.repositories[NAME]
    first = repository.head
    repository.refs |= {"v1": first, "refs/pr/3": first}
    second = decoder(seed=1)
    second.push_to_hub(NAME, license="mit")
    newest = dict(second.state_dict())
    for offline in (False, True):
        if offline:
            go_offline(monkeypatch)
        for name, revision, latest in (
            (NAME, None, True),
            (f"{NAME}@main", None, True),
            (NAME, "main", True),
            (f"{NAME}@v1", None, False),
            (NAME, "v1", False),
            (f"{NAME}@{first}", None, False),
            (f"{NAME}@refs/pr/3", None, False),
        ):
            found = fetch_export(name, revision)
            assert found.commit == (repository.head if latest else first)
            weights = load_file(found.folder / "model.safetensors")
            assert all(torch.equal(weights[key], newest[key]) for key in weights) == latest


def test_a_cache_is_not_fetched_again_and_serves_offline(
    pushed: HubServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = fetch_export(NAME)
    assert sorted(path.name for path in first.folder.iterdir()) == [
        "config.json", "model.safetensors",
    ]  # fmt: skip
    pushed.requests.clear()
    assert fetch_export(NAME) == first
    assert {method for method, _ in pushed.requests} <= {"GET", "HEAD"}
    assert not [path for _, path in pushed.requests if "model.safetensors" in path or "lfs" in path]
    pushed.requests.clear()
    assert fetch_export(f"{NAME}@{first.commit}") == first
    assert fetch_export(NAME, local_files_only=True) == first
    go_offline(monkeypatch)
    assert fetch_export(NAME) == first
    assert pushed.requests == []
    assert Decoder48k.from_pretrained(NAME, local_files_only=True).sampling_rate == 48_000


def test_a_hub_that_is_down_leaves_what_the_cache_has(pushed: HubServer) -> None:
    first = fetch_export(NAME)
    with pushed.failing(503, "."):
        assert fetch_export(NAME) == first
    pushed.close()
    assert fetch_export(NAME) == first


def test_weights_are_of_the_commit_whose_configuration_was_read(
    pushed: HubServer, export: Path
) -> None:
    repository, before = pushed.repositories[NAME], pushed.repositories[NAME].files
    first = repository.head

    def push_between(method: str, path: str) -> None:
        if path.endswith("config.json") and method == "GET":
            repository.commit({**before, "model.safetensors": b"of another commit"})

    pushed.fails = push_between
    found = fetch_export(NAME)
    assert found.commit == first != repository.head
    assert (found.folder / "model.safetensors").read_bytes() == before["model.safetensors"]


def test_a_folder_comes_first(
    pushed: HubServer, export: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "anna").mkdir()
    export.rename(tmp_path / "anna" / "voice48")
    pushed.requests.clear()
    assert export_folder(NAME) == Path(NAME)
    assert not is_hub_name(NAME)
    Decoder48k.from_pretrained(NAME)
    assert pushed.requests == []
    assert "revision=v1 is of a name on the hub" in refused(
        lambda: Decoder48k.from_pretrained(NAME, revision="v1")
    )


# The card.


def test_the_header_of_an_evaluated_export(hub: HubServer, export: Path) -> None:
    card = measured_card("# Mine\n\n| a |\n", "unseen, 12 clips", NUMBERS, "someone/snac")
    (export / "README.md").write_text(card)
    push_export(export, NAME, license="apache-2.0")
    content = hub.repositories[NAME].files["README.md"]
    header = header_of(content)
    assert list(header)[:4] == ["license", "library_name", "pipeline_tag", "base_model"]
    assert header["license"] == "apache-2.0"
    assert header["library_name"] == "ttt-speech"
    assert header["base_model"] == "someone/snac"
    assert {"snac", "48khz"} <= set(header["tags"])
    assert header["metrics"] == ["lsd", "env_r"]
    (index,) = header["model-index"]
    assert index["name"] == "voice48"
    (result,) = index["results"]
    assert result["dataset"] == {"name": "unseen, 12 clips", "type": "recordings"}
    assert [(m["type"], m["value"], m["name"]) for m in result["metrics"]] == [
        ("lsd", 1.2346, "LSD 1.235 [1.1, 1.3]"),
        ("env_r", 0.5, "env-r 0.500 [0.4, 0.6]"),
    ]
    assert content.decode().endswith("\n---\n\n# Mine\n\n| a |\n")


def test_nothing_measured_means_no_numbers(pushed: HubServer) -> None:
    header = header_of(pushed.repositories[NAME].files["README.md"])
    assert not {"metrics", "model-index", "base_model"} & set(header)
    card = measured_card("# Nothing\n", "unseen", {}, None)
    assert not {"metrics", "model-index", "base_model", "license"} & set(header_of(card.encode()))


def test_an_authors_header_stays() -> None:
    readme = (
        "---\nlanguage:\n- da\nlicense: other\nlicense_name: ours\ntags: [danish, snac]\n"
        "own: [1, {a: 2}]\nbase_model: a/b\n---\n# Text\n\n---\nmore\n"
    )
    card = hub_card(readme, NAME, license=None)
    header = header_of(card.encode())
    assert header["language"] == ["da"]
    assert (header["license"], header["license_name"]) == ("other", "ours")
    assert header["own"] == [1, {"a": 2}]
    assert header["tags"][-1] == "danish"
    assert header["tags"].count("snac") == 1
    assert header["base_model"] == "a/b"
    assert card.endswith("# Text\n\n---\nmore\n")
    replaced = hub_card(readme, NAME, license="mit", base_model="c/d")
    again = header_of(replaced.encode())
    assert (again["license"], again["base_model"]) == ("mit", "c/d")
    assert hub_card(replaced, NAME, license=None) == replaced


@pytest.mark.parametrize("license", [None, "MIT License", "", "Apache-2.0", 3])
def test_a_license_is_asked_for_and_never_assumed(hub: HubServer, export: Path, license) -> None:
    sentence = refused(lambda: push_export(export, NAME, license=license))
    assert "license" in sentence
    assert "apache-2.0" in sentence
    assert "license is not set" in refused(lambda: decoder().push_to_hub(NAME))
    assert hub.requests == []


def test_a_header_that_is_no_yaml(hub: HubServer, export: Path) -> None:
    for header in ("a: [", "just words", "- a\n- b", "model-index: 3"):
        (export / "README.md").write_text(f"---\n{header}\n---\n# Text\n")
        sentence = refused(lambda: push_export(export, NAME, license="mit"))
        assert "README.md: its header cannot be read" in sentence
    assert hub.requests == []


# What the hub refuses: nothing is there afterwards.


def test_licenses_that_the_hub_does_not_know(hub: HubServer, export: Path) -> None:
    sentence = refused(lambda: push_export(export, NAME, license="mine"))
    assert '"license" must be one of' in sentence
    assert hub.repositories == {}


@pytest.mark.parametrize(
    "token, words",
    [
        (None, "pushing needs a token; set HF_TOKEN"),
        ("hf_wrong", r"does not know the token \(401\); set HF_TOKEN"),
        ("hf_readers_secret", r"the token may not write there \(403\)"),
    ],
)
@pytest.mark.parametrize("exists", [False, True])
def test_without_permission(
    hub: HubServer,
    export: Path,
    monkeypatch: pytest.MonkeyPatch,
    token: str | None,
    words: str,
    exists: bool,
) -> None:
    before = hub.add(NAME, {"README.md": b"first"}).files if exists else None
    monkeypatch.delenv("HF_TOKEN")
    if token is not None:
        monkeypatch.setenv("HF_TOKEN", token)
    with pytest.raises(UserError, match=words):
        push_export(export, NAME, license="mit")
    refused(lambda: push_export(export, NAME, license="mit"))
    assert list(hub.repositories) == ([NAME] if exists else [])
    assert before is None or hub.repositories[NAME].files == before


def test_another_users_name(hub: HubServer, export: Path) -> None:
    sentence = refused(lambda: push_export(export, "bob/voice48", license="mit"))
    assert "the token may not write there (403); take one with write access" in sentence
    hub.add("bob/voice48", {}, private=True)
    refused(lambda: push_export(export, "bob/voice48", license="mit"))
    assert hub.repositories["bob/voice48"].files == {}


@pytest.mark.parametrize(
    "at, status",
    [
        ("POST /api/models/.*/preupload", 403),
        ("POST .*/objects/batch", 400),
        ("PUT /lfs/", 403),
        ("POST .*/commit/", 403),
        ("POST .*/commit/", 400),
        ("POST .*/commit/", 500),
    ],
)
def test_a_push_that_fails_on_the_way_leaves_what_was_there(
    hub: HubServer, export: Path, at: str, status: int
) -> None:
    with hub.failing(status, at):
        sentence = refused(lambda: push_export(export, NAME, license="mit"))
    assert f"the repository was made and is still empty: {hub.endpoint}/{NAME}" in sentence
    repository = hub.repositories[NAME]
    assert list(repository.files) == [".gitattributes"]
    push_export(export, NAME, license="mit")
    whole = dict(repository.files)
    with hub.failing(status, at):
        sentence = refused(lambda: decoder(seed=1).push_to_hub(NAME, license="mit"))
    assert "still empty" not in sentence
    assert repository.files == whole


def test_what_was_removed_meanwhile_is_not_told_as_a_token_without_rights(
    pushed: HubServer,
) -> None:
    with pushed.failing(404, "POST .*/commit/"):
        sentence = refused(lambda: decoder(seed=1).push_to_hub(NAME, license="mit"))
    assert f"{pushed.endpoint} finds it no more, or not for the account of this token" in sentence
    assert "may not write" not in sentence


def test_no_repository_is_made_where_nobody_looked_at_the_header(
    hub: HubServer, export: Path
) -> None:
    with hub.failing(500, "POST /api/validate-yaml"):
        assert "500" in refused(lambda: push_export(export, NAME, license="mit"))
    assert hub.repositories == {}


def test_a_hub_that_hangs_up(hub: HubServer, export: Path) -> None:
    with hub.failing(0, "POST .*/commit/"):
        sentence = refused(lambda: push_export(export, NAME, license="mit"))
    assert f"{hub.endpoint} does not answer (" in sentence
    assert "whole or not at all" in sentence
    hub.close()
    refused(lambda: push_export(export, NAME, license="mit"))


def test_offline_nothing_is_pushed(
    hub: HubServer, export: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    go_offline(monkeypatch)
    sentence = refused(lambda: push_export(export, NAME, license="mit"))
    assert "HF_HUB_OFFLINE is set, so nothing can be pushed; unset it" in sentence
    assert hub.requests == []


def test_a_commit_in_between_is_not_overwritten(pushed: HubServer) -> None:
    repository = pushed.repositories[NAME]

    def commit_between(_method: str, path: str) -> None:
        if "/preupload/" in path:
            repository.commit({**repository.files, "notes.txt": b"somebody else's"})

    pushed.fails = commit_between
    sentence = refused(lambda: decoder(seed=1).push_to_hub(NAME, license="mit"))
    assert "somebody else has changed it meanwhile (412)" in sentence
    assert repository.files["notes.txt"] == b"somebody else's"


def test_another_kind_of_model_is_not_overwritten(hub: HubServer, export: Path) -> None:
    for config in (b'{"model_type": "bert"}', b"[1]", b"no json"):
        repository = hub.add(NAME, {"config.json": config, "pytorch_model.bin": b"x"})
        sentence = refused(lambda: push_export(export, NAME, license="mit"))
        assert "holds another kind of model, which a push would overwrite" in sentence
        assert repository.files["config.json"] == config


def test_who_may_see_a_repository_is_not_changed_by_a_push(hub: HubServer, export: Path) -> None:
    for private, told in ((False, "public"), (True, "private")):
        hub.add(NAME, {}, private=private)
        asked = {"license": "mit", "private": not private}
        sentence = refused(lambda asked=asked: push_export(export, NAME, **asked))
        assert f"is there and {told}; private={str(not private).lower()} makes only" in sentence
        assert hub.repositories[NAME].files == {}


@pytest.mark.parametrize(
    "repo", ["voice48", "a/b/c", "anna/voice 48", "anna/", "/x/y", "anna/a--b", "anna/a..b",
             "anna/x.git", "anna/voice48@v1", "-anna/x", "anna/.x", "änna/x", "a/" + 95 * "b"],
)  # fmt: skip
def test_what_is_no_name_to_push_to(hub: HubServer, export: Path, repo: str) -> None:
    assert "repo must be USER/NAME" in refused(lambda: push_export(export, repo, license="mit"))
    assert hub.requests == []


def test_what_is_no_whole_export_is_not_pushed(hub: HubServer, export: Path) -> None:
    push = lambda: push_export(export, NAME, license="mit")  # noqa: E731
    card = (export / "README.md").read_text()
    (export / "README.md").write_text(f"{card}\n- weights: sha256 `{64 * 'a'}`\n")
    assert "its numbers were measured on other weights (aaaaaaaaaaaa)" in refused(push)
    (export / "README.md").unlink()
    weights = load_file(export / "model.safetensors")
    broken = {name: tensor.clone() for name, tensor in weights.items()}
    next(iter(broken.values())).view(-1)[0] = float("nan")
    save_file(broken, export / "model.safetensors")
    assert "model.safetensors" in refused(push)
    save_file(dict(list(weights.items())[1:]), export / "model.safetensors")
    assert "does not fit config.json" in refused(push)
    (export / "model.safetensors").unlink()
    assert "model.safetensors: not found" in refused(push)
    (export / "config.json").unlink()
    assert "config.json: not found" in refused(push)
    assert hub.requests == []


# What is not found there.


def test_names_and_revisions_that_are_not_there(
    pushed: HubServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    sentence = refused(lambda: Decoder48k.from_pretrained("anna/voise48"))
    assert sentence.startswith("anna/voise48: neither a folder here nor a repository that")
    assert "shows to the account of this token" in sentence
    sentence = refused(lambda: Decoder48k.from_pretrained(f"{NAME}@v9"))
    assert f"{NAME}: has no revision v9; give a branch, a tag or a commit" in sentence
    sentence = refused(lambda: Decoder48k.from_pretrained(NAME, revision=40 * "a"))
    assert f"has no revision {40 * 'a'}" in sentence
    sentence = refused(lambda: Decoder48k.from_pretrained(f"{NAME}@v1", revision="v2"))
    assert "names a revision, and revision=v2 does so too" in sentence
    pushed.repositories[NAME].private = True
    monkeypatch.delenv("HF_TOKEN")
    sentence = refused(lambda: Decoder48k.from_pretrained(NAME))
    assert "shows without a token; correct the name, or set HF_TOKEN" in sentence
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    assert "(401); set HF_TOKEN" in refused(lambda: Decoder48k.from_pretrained(NAME))


@pytest.mark.parametrize(
    "name, revision",
    [("voice48", None), ("a/b/c", None), ("a/b@", None), ("a/b@x y", None), ("a/b@../../x", None),
     (NAME, "../../../x"), (NAME, ""), (NAME, "-x")],
)  # fmt: skip
def test_what_is_no_name_reaches_no_hub(hub: HubServer, name: str, revision: str | None) -> None:
    refused(lambda: fetch_export(name, revision))
    assert hub.requests == []


@pytest.mark.parametrize("status", [0, 403, 500, 503])
def test_a_hub_that_does_not_give_it(pushed: HubServer, status: int) -> None:
    told = {0: "does not answer (", 403: "refuses it", 500: "answers with 500"}
    with pushed.failing(status, "HEAD|GET"):
        sentence = refused(lambda: Decoder48k.from_pretrained(NAME))
    assert told.get(status, "answers with 503") in sentence
    assert pushed.endpoint in sentence
    with pushed.failing(403, "GET .*/lfs/"):
        assert "refuses it" in refused(lambda: Decoder48k.from_pretrained(NAME))
    pushed.close()
    sentence = refused(lambda: Decoder48k.from_pretrained("anna/not_in_the_cache"))
    assert "neither a folder here nor in the cache" in sentence
    assert "Connection refused" in sentence


@pytest.mark.parametrize("how", ["variable", "argument"])
def test_offline_and_not_in_the_cache(
    pushed: HubServer, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    if how == "variable":
        go_offline(monkeypatch)
    pushed.requests.clear()
    load = lambda name: Decoder48k.from_pretrained(  # noqa: E731
        name, local_files_only=how == "argument"
    )
    cause = {"variable": "HF_HUB_OFFLINE is set", "argument": "local_files_only is set"}[how]
    for name in (NAME, f"{NAME}@v1"):
        sentence = refused(lambda name=name: load(name))
        assert sentence.startswith(f"{name}: neither a folder here nor in the cache")
        assert cause in sentence
    assert pushed.requests == []


def test_half_a_cache_is_no_decoder(pushed: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    with pushed.failing(403, "/resolve/.*/model.safetensors"):
        refused(lambda: fetch_export(NAME))
    go_offline(monkeypatch)
    assert "HF_HUB_OFFLINE is set" in refused(lambda: fetch_export(NAME))


def test_repositories_of_others_are_named_for_what_they_are(hub: HubServer, export: Path) -> None:
    codec = json.dumps(snac_config(build_nano_snac())).encode()
    weights = (export / "model.safetensors").read_bytes()
    hub.add("hubertsiuzdak/snac_24khz", {"config.json": codec, "pytorch_model.bin": weights})
    hub.add("some/bert", {"config.json": b'{"model_type": "bert"}', "model.safetensors": weights})
    hub.add("some/data", {"README.md": b"# Data\n"})
    config = (export / "config.json").read_bytes()
    hub.add("some/half", {"config.json": config})
    hub.add(
        "some/new", {"config.json": config.replace(b'"format_version": 1', b'"format_version": 9')}
    )
    for name, words in (
        (
            "hubertsiuzdak/snac_24khz",
            "a SNAC codec and not a 48 kHz decoder made for one; give the",
        ),
        ("some/bert", "config.json: not an exported 48 kHz decoder"),
        ("some/data", "a repository without config.json, so no 48 kHz decoder"),
        ("some/half", "a repository without model.safetensors"),
        ("some/new", "format version 9, this program reads 1"),
    ):
        hub.requests.clear()
        sentence = refused(lambda name=name: Decoder48k.from_pretrained(name))
        assert sentence.startswith(f"{name}: ")
        assert words in sentence
        if name != "some/half":  # No weights are fetched of what is no decoder.
            assert not [path for _, path in hub.requests if "safetensors" in path or "lfs" in path]
