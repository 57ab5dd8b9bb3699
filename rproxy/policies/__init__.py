"""Which back-end gets the next client. Pure: no I/O and no clock; randomness is injected."""
