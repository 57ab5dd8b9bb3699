"""IP addresses, sockets and host names."""
