"""Pages that open offline: a module turns a summary into values, a template says what they mean."""
