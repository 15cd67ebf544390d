"""`python -m ray_jobs.schema` writes configs/schema.json, from which editors complete keys."""

from __future__ import annotations

from ray_jobs.config.schema import SCHEMA_PATH, schema_text

if __name__ == "__main__":
    SCHEMA_PATH.write_text(schema_text(), encoding="utf-8")
    print(SCHEMA_PATH)
