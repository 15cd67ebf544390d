"""Ours and its peers on the same clips: how fast, how many bytes, and what a killed run repeats."""
