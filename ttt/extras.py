"""Packages that not every installation has, and which extra of ttt-speech brings each of them.

`pip install ttt-speech` is the decoder alone; Moshi, the jobs, ONNX and ViSQOL are extras of it.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from contextlib import contextmanager

from ttt.errors import UserError

_EXTRA_OF = {
    "moshi": "moshi",
    **dict.fromkeys(("onnx", "onnxruntime"), "onnx"),
    **dict.fromkeys(
        ("fsspec", "jinja2", "matplotlib", "optuna", "pyarrow", "pydantic", "ray", "yaml"), "jobs"
    ),
}


class MissingPackage(UserError, ModuleNotFoundError):
    """What is asked for needs a package that is not installed."""


@contextmanager
def needed_for(what: str) -> Iterator[None]:
    """Say what `what` needs, where the import of a package of an extra fails inside the block."""
    try:
        yield
    except MissingPackage:
        raise
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package not in _EXTRA_OF:
            raise
        raise _missing(what, package) from error


def require(what: str, *packages: str) -> None:
    """Raise MissingPackage unless these packages are installed, without importing them."""
    for package in packages:
        with needed_for(what):
            if importlib.util.find_spec(package) is None:
                raise _missing(what, package)


def _missing(what: str, package: str) -> MissingPackage:
    return MissingPackage(f"{what} needs {package}; install ttt-speech[{_EXTRA_OF[package]}]")
