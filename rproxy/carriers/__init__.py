"""The ways to carry the bytes of sessions."""
