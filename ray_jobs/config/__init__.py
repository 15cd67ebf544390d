"""Configuration: YAML files and overrides to typed classes, with whole sentences for mistakes."""

from ray_jobs.config.load import load_config as load_config
