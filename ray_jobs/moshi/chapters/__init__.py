"""The evaluation over whole chapters: configuration, plan, worker, records."""
