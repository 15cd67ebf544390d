"""Validation on fixed spans of held-out chapters, each heard as an evaluation hears the export.

The spans are the same in every validation and for any number of workers, which take turns with
them. What is measured of a span lands in one table by span, which is added up in one order, so the
result does not depend on who heard which. Spans count equally, as chapters do in an evaluation.
The table itself is told, too: two trainings are compared span by span.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager

import numpy as np
import torch
from moshi.models.lm import LMModel

from ttt.codebook_weights import CodebookWeights
from ttt.device_errors import is_out_of_memory
from ttt.errors import UserError
from ttt.moshi.insert import attention_window, ttt_layers
from ttt.moshi.training.exported.forms import base_form, exported_form
from ttt.moshi.training.validation.hear import Hear, curve_of, measure_span
from ttt.moshi.training.validation.rows import (
    BASE,
    BASE_CURVE,
    CURVE,
    FAST_WEIGHT_CHANGE,
    GATE,
    TRAINED,
)
from ttt.moshi.training.validation.spans import Span, require_beyond_window
from ttt.training.loop import TrainingStopped
from ttt.training.ranks import Communicator
from ttt.training.trainee import Row, ValidationResult

ReadCodes = Callable[[int, int, int], np.ndarray]
"""Codes of the frames [start, stop) of a chapter, [stop - start, Q]: `ChapterCache.read`."""


class ChapterValidation:
    """The loss inside the attention window and beyond it; the one beyond decides."""

    reference_rows: Sequence[str] = (BASE, BASE_CURVE)

    def __init__(
        self,
        lm: LMModel,
        spans: Sequence[Span],
        read: ReadCodes,
        hear: Hear,
        *,
        weights: CodebookWeights,
    ) -> None:
        """Validate a model in training; nothing is heard yet.

        Args:
            lm: with what is trained in it.
            read: reads the codes of a span, anew each time.
            hear: `ttt.moshi.training.hear_span` with its options.
            weights: of the codebooks in the loss.

        Raises:
            UserError: no span reaches beyond the window of attention.
        """
        self._lm, self._spans = lm, spans
        self._read, self._hear = read, hear
        self._weights: CodebookWeights = weights
        self.window = attention_window(lm)
        """Frames that attention reaches back; as an evaluation of the export takes it."""
        require_beyond_window(spans, self.window)

    def __call__(self, group: Communicator, *, untrained: bool) -> ValidationResult:
        """Hear all spans in the exported form, and in the base form when `untrained`.

        Raises TrainingStopped on every rank where one cannot hear a span.
        """
        rows, by_span = self._rows(group, exported_form, (TRAINED, CURVE, FAST_WEIGHT_CHANGE))
        if untrained:
            of_base = self._rows(group, base_form, (BASE, BASE_CURVE))
            rows, by_span = rows | of_base[0], by_span | of_base[1]
        if gates := self._gates():
            rows[GATE] = gates
        losses = rows[TRAINED]
        return ValidationResult(
            losses["beyond_window"], terms=dict(losses), rows=rows, by_item=by_span
        )

    @torch.no_grad()
    def _gates(self) -> Row:
        layers = ttt_layers(self._lm).items()
        return {f"layer_{n}": float(each.alpha.tanh().abs().mean()) for n, each in layers}

    def _rows(
        self,
        group: Communicator,
        form: Callable[[LMModel], AbstractContextManager[None]],
        names: Sequence[str],
    ) -> tuple[dict[str, Row], dict[str, list[Row]]]:
        """Means over the spans in rows of these names, and the rows of every span; a name that no
        span has a value of is left out."""
        mine: dict[int, Sequence[Row]] = {}
        failure, keys = "", self._keys(names)
        try:
            with form(self._lm):
                for place in range(group.rank, len(self._spans), group.world):
                    failure = f"validation on {self._spans[place].chapter_id}: "
                    mine[place] = self._measured(self._spans[place])
            failure = ""
        except UserError as error:
            failure += str(error)
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            failure = (
                "validation: out of memory; it holds the weights that LoRA goes into and the TTT "
                "layers once more, which fewer lora.targets or ttt.layers make less; the last "
                f"checkpoint is intact ({error})"
            )
        if failures := [text for text in group.all_texts(failure) if text]:
            raise TrainingStopped(failures[0])
        table = torch.zeros(len(self._spans), len(keys), 2, dtype=torch.float64)
        for place, rows in mine.items():
            found = dict(zip(names, rows, strict=False))
            for at, (row, name) in enumerate(keys):
                if (value := found[row].get(name)) is not None:
                    table[place, at] = torch.tensor([value, 1.0], dtype=torch.float64)
        table = group.sum_(table.to(self._lm.device)).cpu()
        means: dict[str, Row] = {}
        by_span: dict[str, list[Row]] = {}
        for at, (row, name) in enumerate(keys):
            total, count = table[:, at].sum(0).tolist()
            if not count:
                continue
            means.setdefault(row, {})[name] = total / count
            of_spans = by_span.setdefault(row, [{} for _ in self._spans])
            for of_span, (value, heard) in zip(of_spans, table[:, at].tolist(), strict=True):
                if heard:
                    of_span[name] = value
        return means, by_span

    def _measured(self, span: Span) -> tuple[Row, Row, Row]:
        """Losses, curve and fast weights' change of one span."""
        codes = torch.from_numpy(self._read(span.row, 0, span.frames)).T
        heard = self._hear(self._lm, codes)
        return (
            measure_span(heard.nll, self.window, self._weights),
            curve_of(heard.nll, self._weights),
            {f"layer_{layer}": change for layer, change in heard.fast_weight_change.items()},
        )

    def _keys(self, names: Sequence[str]) -> list[tuple[str, str]]:
        """Row and name of all that can be measured: the same on every rank, heard or not."""
        longest = torch.zeros(2, max(span.frames for span in self._spans))
        of_rows = (
            measure_span(longest, self.window, self._weights),
            curve_of(longest, self._weights),
            {f"layer_{layer}": 0.0 for layer in ttt_layers(self._lm)},
        )
        return [(row, name) for row, of_row in zip(names, of_rows, strict=False) for name in of_row]
