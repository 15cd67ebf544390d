"""Trainings of TTT layers and LoRA in Moshi: what a run's files say, and two runs in pairs."""
