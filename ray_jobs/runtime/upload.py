"""What travels to a cluster with a submitted job: the files of a checkout, and how large they are.

Ray packs the folder as one zip, leaving out what .gitignore, .rayignore and the runtime
environment's `excludes` name. A data set or a run that lies in the checkout would travel to every
node, so the files are counted before anything is packed.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from ttt.errors import UserError

LARGEST_MIB = 32
"""A checkout of this project is 8 MiB; Ray itself refuses more than 512."""


def files_to_upload(root: Path, excludes: Sequence[str]) -> dict[str, int]:
    """Every file that Ray would pack, relative to `root`, with its bytes."""
    # Ray's own walk: any other would differ from it in some corner of the ignore rules.
    from ray._private.runtime_env.packaging import _dir_travel, _get_excludes

    sizes: dict[str, int] = {}

    def note(path: Path) -> None:
        if path.is_file():
            sizes[path.relative_to(root).as_posix()] = path.stat().st_size

    root = root.absolute()
    ignored = [_get_excludes(root, list(excludes))]
    _dir_travel(root, ignored, note, include_gitignore=True, logger=_SILENT)
    return sizes


def describe_upload(root: Path, sizes: dict[str, int]) -> str:
    """How much travels, in one line. Raises UserError when that is too much, naming what is large.

    Args:
        sizes: of `files_to_upload`.
    """
    total = sum(sizes.values())
    if total > LARGEST_MIB * 2**20:
        folders = Counter[str]()
        for name, size in sizes.items():
            folders["/".join(name.split("/")[:2])] += size
        largest = ", ".join(f"{name} ({_mib(size)})" for name, size in folders.most_common(3))
        raise UserError(
            f"{root}: {_mib(total)} would travel to every node, the limit is {LARGEST_MIB} MiB; "
            f"move the largest away or name them in cluster/runtime_env.yaml's excludes: {largest}"
        )
    return f"upload: {len(sizes)} files, {_mib(total)} (limit {LARGEST_MIB} MiB)"


_SILENT = logging.Logger("ray_jobs.runtime.upload", logging.CRITICAL)


def _mib(size: int) -> str:
    return f"{size / 2**20:.1f} MiB"
