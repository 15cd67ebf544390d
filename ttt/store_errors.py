"""What the errors of object stores say, as pyarrow passes them on, and what to do about them."""

from __future__ import annotations

import re


def reason(error: OSError) -> str:
    """The error in one line."""
    text = " ".join(str(error).split()) or type(error).__name__
    # Without a Java machine, pyarrow names every folder in which it has looked for one.
    return text if len(text) <= 500 else f"{text[:497]}..."


def lasting(error: OSError) -> str | None:
    """What to do about an error that would come again at every try; None when it may pass."""
    for pattern, advice in _LASTING:
        if re.search(pattern, str(error)):
            return advice
    return _CREDENTIALS if isinstance(error, PermissionError) else None


_CREDENTIALS = "give this machine credentials that may read and write there"
_LASTING = (
    (
        r"HTTP status 301|PERMANENT_REDIRECT|Looks like the configured region|is wrong; expecting",
        "the bucket lies in another region: correct region= in the URI, or leave it out",
    ),
    (
        r"NO_SUCH_BUCKET|Bucket '.*' not found",
        "there is no such bucket: correct its name or create it",
    ),
    (r"ACCESS_DENIED|INVALID_ACCESS_KEY_ID|SIGNATURE_DOES_NOT_MATCH", _CREDENTIALS),
    (r"Unable to load lib", "install what this library belongs to, or use another scheme"),
)
"""What an error says when waiting cannot help -> what to do."""
