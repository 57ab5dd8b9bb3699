"""Addresses, sockets and names: what the system is asked and told about the network."""
