"""The tree of configs/evaluate_all.yaml: chapters and pairs, with the models that both hear."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

from ray_jobs.config.former_keys import ORIGINAL_KEYS, Alias
from ray_jobs.config.workers import WorkersConfig
from ray_jobs.moshi.chapters.config import EvaluateChaptersConfig
from ray_jobs.moshi.config import ChapterModelsConfig
from ray_jobs.moshi.pairs.config import ALIASES, EvaluatePairsConfig
from ttt.config import Config

_SHARED = ("model", "cluster")
_ALIASES = {
    **{key: replace(alias, key=f"pairs.{alias.key}") for key, alias in ALIASES.items()},
    "librilight_audio_dir": Alias("chapters.data.root"),
    "librilight_max_chapters": Alias("chapters.data.max_chapters"),
}


@dataclass(frozen=True, kw_only=True)
class EvaluateAllConfig(Config):
    """Everything about a Moshi in one run: whole chapters, and benchmarks made of pairs."""

    __aliases__: ClassVar[Mapping[str, Alias]] = _ALIASES
    __retired_keys__: ClassVar[Mapping[str, str]] = {
        key: f"of chapters: {sentence}"
        for key, sentence in ORIGINAL_KEYS.items()
        if key not in _ALIASES
    }

    output: str
    """Folder of the run; chapters/ and pairs/ in it are runs of their own."""
    model: ChapterModelsConfig = field(default_factory=ChapterModelsConfig)
    """The models, of both."""
    cluster: WorkersConfig = field(default_factory=WorkersConfig)
    """Workers, of both."""
    chapters: EvaluateChaptersConfig | None = None
    """As evaluate_chapters has it; null leaves chapters out."""
    pairs: EvaluatePairsConfig | None = None
    """As evaluate_pairs has it; null leaves pairs out."""

    @staticmethod
    def __complete__(tree: dict[str, Any]) -> dict[str, Any]:
        """Give the parts of a tree what they share and their folders, where they do not say it."""
        tree = copy.deepcopy(tree)
        for name in ("chapters", "pairs"):
            if isinstance(part := tree.get(name), dict):
                part.update({k: copy.deepcopy(tree[k]) for k in _SHARED if k in tree} | part)
                if isinstance(tree.get("output"), str):
                    part.setdefault("output", f"{tree['output'].rstrip('/')}/{name}")
        return tree

    def __post_init__(self) -> None:
        if self.chapters is None and self.pairs is None:
            raise ValueError("chapters and pairs are both null: there is nothing to evaluate")
        for name in ("chapters", "pairs"):
            part = getattr(self, name)
            if part is None:
                continue
            for shared in _SHARED:
                if getattr(part, shared) != getattr(self, shared):
                    raise ValueError(f"{name}.{shared} is set apart: set {shared} for both")
            if part.output != f"{self.output.rstrip('/')}/{name}":
                raise ValueError(f"{name}.output is set: set output, {name}/ below it is taken")
