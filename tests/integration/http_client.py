"""HTTP requests as a monitoring system makes them."""

from __future__ import annotations

import http.client
from typing import Final

from tests.integration.polling import SOCKET_S

PRINT_BODY: Final = (
    "import sys; from tests.integration.http_client import get; sys.stdout.buffer.write(get(sys.argv[1]))"
)
"""Python code that runs in another process and prints the body of the URL that it is given."""


def get(url: str) -> bytes:
    """The body of an HTTP resource; no proxy of the environment is asked."""
    host, _, path = url.removeprefix("http://").partition("/")
    connection = http.client.HTTPConnection(host, timeout=SOCKET_S)
    try:
        connection.request("GET", f"/{path}", headers={"Connection": "close"})
        response = connection.getresponse()
        assert response.status == http.HTTPStatus.OK, response.status
        return response.read()
    finally:
        connection.close()
