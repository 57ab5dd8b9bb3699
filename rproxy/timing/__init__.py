"""Timers, rates and bounded work, on a clock that they are given."""
