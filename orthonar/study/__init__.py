"""Studies: what to run, running it, and what is recorded."""
