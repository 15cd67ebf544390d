"""Benchmarks made of pairs: found on disk, scored, summarised as accuracies."""

from ttt.eval.pairs.official import official_scores

__all__ = ["official_scores"]
