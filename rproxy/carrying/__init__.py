"""Client sessions: choose a back-end, connect, carry the bytes."""
