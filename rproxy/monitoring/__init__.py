"""Registration and probing over UDP, on both sides."""
