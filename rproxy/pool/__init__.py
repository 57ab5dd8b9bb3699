"""The back-ends and their state. Pure: every time is an argument."""
