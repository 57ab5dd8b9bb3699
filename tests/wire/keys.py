"""Keys to seal with and to write to key files."""

from __future__ import annotations

from hypothesis import strategies as st

from rproxy.wire.seal import KEY_BYTES_MIN, KEY_ID_MAX, Key

DIGITS = "0123456789abcdef" * 4
SECRET = bytes.fromhex(DIGITS)

keys = st.builds(Key, st.integers(0, KEY_ID_MAX), st.binary(min_size=KEY_BYTES_MIN, max_size=80), st.booleans())
keyrings = st.lists(keys, min_size=1, max_size=5, unique_by=lambda key: key.id).map(tuple)
