"""The evaluation on pairs: configuration, plan, worker, records."""
