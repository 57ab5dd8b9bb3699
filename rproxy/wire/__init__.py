"""The monitoring protocol's bytes. Pure: bytes in, values out."""
