"""Trainings on Ray, whatever is trained: batches, workers, listeners, progress."""
