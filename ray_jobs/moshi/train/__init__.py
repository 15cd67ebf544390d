"""Training of TTT layers and LoRA in a frozen Moshi, on a cache of chapters."""
