"""What a GPU does with this code, each figure beside its estimate (`python -m benchmarks.gpu`)."""
