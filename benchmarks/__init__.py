"""What is measured, beside its targets in README.md; `python -m benchmarks` runs all."""

# Chooses Ray's authentication, which counts only before anything imports ray.
import ray_jobs as ray_jobs
