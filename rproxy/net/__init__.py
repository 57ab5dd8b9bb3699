"""IP addresses, sockets, host names and files."""
