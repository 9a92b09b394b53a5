"""The engine: plan, content-addressed units, workers, an atomic store, resume."""
