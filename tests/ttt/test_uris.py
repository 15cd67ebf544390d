"""Places as users type them: what each means, and the sentence of each that is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from ttt import storage, uris
from ttt.errors import UserError

OPTIONS = "?scheme=http&endpoint_override=127.0.0.1:9&region=us-east-1"

REFUSED = [
    *((f"{scheme}://b/run#2", "write %23") for scheme in ("s3", "gs", "hdfs", "file", "memory")),
    (f"s3://b/run{OPTIONS}#2", "write %23"),
    (f"s3://b/run#2{OPTIONS}", "write %23"),
    ("s3://b#", "write %23"),
    ("s3://b//x", "empty component"),
    ("s3://b/x//y", "empty component"),
    ("s3://b/x//", "empty component"),
    ("s3://b//", "empty component"),
    (f"s3://b//x{OPTIONS}", "empty component"),
    (f"s3://b/x//{OPTIONS}", "empty component"),
    ("gs://b//x", "empty component"),
    ("hdfs://h:80//x", "empty component"),
    ("memory://x//y", "empty component"),
    ("file:///a//b", "empty component"),
    ("s3:///x", "names no bucket"),
    ("s3://", "names no bucket"),
    (f"s3://{OPTIONS}", "names no bucket"),
    ("s3://key:secret@/x", "names no bucket"),
    ("gs:///x", "names no bucket"),
    ("s3://b:9000/x", "endpoint_override"),
    ("s3://b/x?", "key=value"),
    ("s3://b/why?", "key=value"),
    ("s3://b/why?/x", "key=value"),
    ("s3://b/x?y", "key=value"),
    ("s3://b/x?region", "key=value"),
    ("s3://b/x?region=", "key=value"),
    ("s3://b/x?=a", "key=value"),
    ("s3://b/x?region=a&", "key=value"),
    ("s3://b/x?region=a&&scheme=http", "key=value"),
    ("s3://b/x?region=a&region=b", "region twice"),
    ("s3://b/x?version=2", "Unexpected query parameter"),
    ("file:///a?b=c", "takes no options"),
    ("file://host/a", "names a host"),
    ("file://a", "names a host"),
    ("s3://b/../x", "component .."),
    ("s3://b/x/..", "component .."),
    ("s3://b/./x", "component ."),
    ("s3://b/%2e%2E/x", "component .."),
    ("file:///a/../b", "component .."),
    ("s3://b/a%2Fb", "%2F"),
    ("s3://b/100%", "write %25"),
    ("s3://b/a%zzb", "write %25"),
    ("s3://b/a%e4", "not UTF-8"),
    ("s3://b/a%0Ab", "control character"),
    ("s3://b/a%00b", "control character"),
    ("s3://b/a\nb", "control character"),
    ("s3://b/a\tb", "control character"),
    ("s3://b/x\n", "white space"),
    ("s3://b/x ", "white space"),
    (" s3://b/x", "white space"),
    ("s3://b/a b", "spells it %20"),
    ("s3://b/ü", "spells it %C3%BC"),
    ("s3://b/[a]", "spells it %5B"),
    ("s3://b/a\\b", "backslash"),
    ("S3://b/x", "small letters"),
    ("://x", "no scheme"),
    ("simplecache::s3://b/x", "no scheme"),
    ("nosuch://x", "no filesystem for nosuch"),
    ("s3:/b/x", "write s3://"),
    ("file:/a", "write file://"),
    ("", "an empty path"),
    ("a\0b", "NUL"),
]


@pytest.mark.parametrize("place, sentence", REFUSED)
def test_what_two_readers_would_read_differently_is_refused_in_a_sentence(
    place: str, sentence: str
) -> None:
    with pytest.raises(UserError) as caught:
        storage.resolve(place)
    assert sentence in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("place", ["s3://b/run#2", "s3://b//x", "s3://b/x?y", "memory://a//b"])
def test_joining_refuses_them_too(place: str) -> None:
    for operation in (storage.join, storage.name, storage.parent):
        with pytest.raises(UserError):
            operation(place)


@pytest.mark.parametrize(
    "uri, inside",
    [
        ("s3://b/x", "b/x"),
        ("s3://b/x/", "b/x"),
        ("s3://b", "b"),
        ("s3://b/", "b"),
        ("s3://b/run%232", "b/run#2"),
        ("s3://b/why%3F", "b/why?"),
        ("s3://b/a%20b", "b/a b"),
        ("s3://b/100%25", "b/100%"),
        ("s3://b/%C3%BC", "b/ü"),
        ("s3://b/a+b=c:d@e,f", "b/a+b=c:d@e,f"),
        ("s3://b/..a/.b", "b/..a/.b"),
        ("s3://key:sec%2Fret@b/x", "b/x"),
    ],
)
def test_options_and_escapes_keep_working(uri: str, inside: str) -> None:
    filesystem, path = storage.resolve(uri + OPTIONS)
    assert (filesystem.type_name, path) == ("s3", inside)
    assert uris.parse(uri + OPTIONS).options["endpoint_override"] == "127.0.0.1:9"


def test_options_of_fsspec_are_its_filesystems_own() -> None:
    filesystem, path = storage.resolve("memory://a%20b/x?listings_expiry_time=5")
    assert path == "a b/x"
    assert filesystem.handler.fs.storage_options == {"listings_expiry_time": "5"}


@pytest.mark.parametrize(
    "uri, joined, name, parent",
    [
        ("s3://b/x?region=r", "s3://b/x/n?region=r", "x", "s3://b?region=r"),
        ("s3://b/x/", "s3://b/x/n", "x", "s3://b"),
        ("s3://b", "s3://b/n", "b", "s3://b"),
        ("s3://b/?region=r", "s3://b/n?region=r", "b", "s3://b/?region=r"),
        ("s3://b/run%232", "s3://b/run%232/n", "run#2", "s3://b"),
        ("file:///a/b", "file:///a/b/n", "b", "/a"),
        ("/a/b#1?c", "/a/b#1?c/n", "b#1?c", "/a"),
    ],
)
def test_joining(uri: str, joined: str, name: str, parent: str) -> None:
    assert storage.join(uri, "n") == joined
    assert storage.name(uri) == name
    assert storage.parent(uri) == parent


@pytest.mark.parametrize("name", ["a b", "100%", "run#2", "why?", "ü", "a%20b", "[x]", "a&b=c"])
def test_any_name_of_a_folder_can_be_joined_to_it(name: str) -> None:
    """As `list_names` returns them."""
    for folder in (f"s3://b/x{OPTIONS}", "memory://x"):
        joined = storage.join(folder, name)
        assert storage.resolve(joined)[1].endswith(f"x/{name}")
        assert storage.name(joined) == name
        assert storage.parent(joined) == folder


@pytest.mark.parametrize(
    "name",
    ["run#2", "why?", "why?a=b", "a b ", " a", "100%", "a%20b", "a//b", "..a", "c:/x", "x\n"],
)
def test_local_paths_are_taken_as_they_are_typed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.chdir(tmp_path)
    storage.write_bytes(storage.join(name, "file"), b"here")
    assert (tmp_path / name / "file").read_bytes() == b"here"
    assert storage.list_names(name) == ["file"]
    assert storage.read_bytes(f"{tmp_path}/{name}/file") == b"here"


def test_a_file_uri_is_the_path_it_spells(tmp_path: Path) -> None:
    storage.write_bytes(f"file://{tmp_path}/run%232/a%20b", b"here")
    assert (tmp_path / "run#2" / "a b").read_bytes() == b"here"
    assert storage.absolute(f"file://{tmp_path}/run%232") == f"{tmp_path}/run#2"
