"""The carrier on Twisted's own transports, for any endpoint and any reactor."""
