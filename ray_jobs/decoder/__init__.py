"""The decoder's jobs: caching, training, evaluation, decoding."""
