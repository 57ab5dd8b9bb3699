"""Timers, rate limits and bounded work, on an injected clock."""
