"""The grammar of a place: a local path as it stands, or a URI that every reader reads alike.

A URI is `scheme://bucket/path?option=value&...`. What one reader drops and another keeps (a `#`, an
empty component, `..`) would put files where nobody looks, or all of them onto one object, so it is
refused; `%23` and its like write any character of a name. A local path is taken as it is typed.
"""

from __future__ import annotations

import re
import string
import unicodedata
from dataclasses import dataclass
from urllib.parse import quote, unquote

from ttt.errors import UserError


@dataclass(frozen=True)
class Uri:
    """A URI that was checked; texts are as they were typed unless said otherwise."""

    scheme: str
    """In small letters."""
    authority: str
    """The bucket or host, with a user or container before an @; empty where none is needed."""
    base: str
    """All of it but the options, without slashes at its end."""
    options: dict[str, str]
    """What stands after the `?`, escapes decoded."""
    query: str
    """The options with their `?`; empty without any."""

    @property
    def inside(self) -> str:
        """Bucket and path with escapes decoded, as fsspec's filesystems want them."""
        return unquote(self.base.partition("://")[2])


def is_uri(place: str) -> bool:
    """Whether `place` is a URI, sound or not; all else is a local path."""
    return re.match(r"[^/]*://", place) is not None


def is_local(place: str) -> bool:
    """Whether `place` is on a disk of this machine: a path, or a file:// URI."""
    return not is_uri(place) or place.startswith("file://")


def parse(uri: str) -> Uri:
    """Take a URI apart. Raises UserError where its readers would not agree on what it means."""
    _check_characters(uri)
    scheme, _, rest = uri.partition("://")
    if not re.fullmatch(r"[a-z][a-z0-9+.-]*", scheme):
        raise _refused(uri, f"{scheme!r} is no scheme; write one in small letters, such as s3://")
    path, mark, query = rest.partition("?")
    options = _options(uri, query) if mark else {}
    authority, _, inside = path.partition("/")
    _check_authority(uri, scheme, authority)
    _check_components(uri, inside)
    base = f"{scheme}://{path}"
    return Uri(scheme, authority, base.rstrip("/") if inside else base, options, mark + query)


def check(place: str) -> None:
    """Raise UserError when `place` is a URI that `parse` refuses, or a local path that is none."""
    if is_uri(place):
        parse(place)
        return
    if not place:
        raise UserError("an empty path; name a folder or a file")
    if "\0" in place:
        raise _refused(place, "a path cannot hold the character NUL")
    if found := re.match(rf"({'|'.join(_NEED_BUCKET)}|file|hdfs|viewfs):/", place):
        raise _refused(place, f"one slash makes this a local folder; write {found[1]}://...")


def escaped(name: str) -> str:
    """A name, or several with slashes between, as a URI spells it."""
    return quote(name, safe="/" + _PLAIN.replace("%", ""))


_PLAIN = string.ascii_letters + string.digits + "-._~!$&'()*+,;=:@%"
"""What RFC 3986 lets stand in a component; `%` begins an escape."""
_NEED_BUCKET = ("s3", "gs", "gcs", "abfs", "abfss")
_WITHOUT_PORT = ("s3", "gs", "gcs")


def _check_characters(uri: str) -> None:
    if uri != uri.strip():
        raise _refused(uri, "begins or ends with white space; remove it")
    if "#" in uri:
        raise _refused(uri, "what follows a # would be dropped; rename it, or write %23 for a #")
    if "\\" in uri:
        raise _refused(uri, "has a backslash; folders of a URI are separated by /")
    for char in uri:
        if unicodedata.category(char) == "Cc":
            raise _refused(uri, "holds a line break or another control character; remove it")
        if char not in _PLAIN and char not in "/?":
            spelled = quote(char, errors="surrogateescape")
            raise _refused(uri, f"has the character {char!r}; a URI spells it {spelled}")
    for found in re.finditer("%(.{0,2})", uri):
        if not re.fullmatch("[0-9A-Fa-f]{2}", found[1]):
            raise _refused(uri, f"{found[0]} is no escape; write %25 for a percent sign")
    try:
        text = unquote(uri, errors="strict")
    except UnicodeDecodeError as error:
        raise _refused(uri, "its escapes are not UTF-8") from error
    if any(unicodedata.category(char) == "Cc" for char in text):
        raise _refused(uri, "an escape stands for a line break or another control character")


def _options(uri: str, query: str) -> dict[str, str]:
    options: dict[str, str] = {}
    for word in query.split("&"):
        key, _, value = word.partition("=")
        if not re.fullmatch(r"[A-Za-z_][\w.-]*", key) or not value:
            raise _refused(
                uri,
                "a ? begins options, key=value with & between them; write %3F for one in a name",
            )
        if key in options:
            raise _refused(uri, f"gives the option {key} twice")
        options[key] = unquote(value)
    return options


def _check_authority(uri: str, scheme: str, authority: str) -> None:
    host = authority.rpartition("@")[2]
    if scheme == "file" and "?" in uri:
        raise _refused(uri, "a file takes no options; write %3F for a ? in a name, or its path")
    if scheme == "file" and authority:
        raise _refused(uri, "names a host; write file:/// before an absolute path, or the path")
    if scheme in _NEED_BUCKET and not host:
        raise _refused(uri, f"names no bucket; write {scheme}://bucket/path")
    if scheme in _WITHOUT_PORT and ":" in host:
        raise _refused(uri, "a bucket has no port; give a server as ?endpoint_override=host:port")


def _check_components(uri: str, inside: str) -> None:
    components = inside.split("/")
    if not components[-1]:
        components.pop()  # One slash at the end means the same as none.
    for component in components:
        if not component:
            raise _refused(uri, "has an empty component (//); remove the second slash")
        if (name := unquote(component)) in (".", ".."):
            raise _refused(uri, f"has the component {name}, which an object store takes literally")
        if "/" in name:
            raise _refused(uri, "has %2F, a slash inside a name; write / between folders")


def _refused(uri: str, reason: str) -> UserError:
    shown = "".join(char if char.isprintable() else repr(char)[1:-1] for char in uri)
    return UserError(f"{shown}: {reason}")
