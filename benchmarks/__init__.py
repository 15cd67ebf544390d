"""What is measured, beside its targets in README.md; `python -m benchmarks` runs all."""

import importlib.util

if importlib.util.find_spec("ray") is not None:  # A bare machine with a GPU has none.
    # Chooses Ray's authentication, which counts only before anything imports ray.
    import ray_jobs as ray_jobs
