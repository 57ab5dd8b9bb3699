"""One client's session, whatever carries its bytes."""
