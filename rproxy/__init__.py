"""A TCP reverse proxy that knows how loaded its back-ends are."""
