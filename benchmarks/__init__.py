"""What is measured, beside its targets in README.md; `python -m benchmarks` runs all."""

import ray_jobs  # noqa: F401  (chooses Ray's authentication before anything imports ray)
