"""The monitoring protocol and key files. Pure: bytes or text in, values out, and back."""
