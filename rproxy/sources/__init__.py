"""Sources of back-ends: they fill the pool."""
