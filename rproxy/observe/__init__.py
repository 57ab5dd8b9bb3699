"""Status, counters and logs for operators. Read-only."""
