"""The sweep over learning rates and schedules on Ray Tune."""
