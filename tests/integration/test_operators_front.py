"""The manual's nginx in front of the operators' listener: whom it lets in, and that it holds nothing back."""

from __future__ import annotations

import subprocess
from http import HTTPStatus
from pathlib import Path
from typing import Final

from docutils import nodes
from docutils.core import publish_doctree

from rproxy.net.addresses import written
from tests.certificates import Authority
from tests.conftest import need
from tests.integration.addresses import LOOPBACK
from tests.integration.conftest import Starter
from tests.integration.other_proxies import free_ports, nginx
from tests.integration.test_api import TOKEN, token_file
from tests.integration.twistd import PROJECT

NAME: Final = "admin.example.org"
KILL: Final = "/api/sessions/9/kill"
TEMPORARY: Final = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")


def configuration() -> str:
    """The manual's."""
    text = (PROJECT / "rproxy/docs/api.rst").read_text(encoding="utf-8")
    blocks = [block.astext() for block in publish_doctree(text).findall(nodes.literal_block)]
    (block,) = [block for block in blocks if "proxy_pass" in block]
    return block


def test_behind_nginx_its_own_page_works_and_no_other_one(start: Starter, tmp_path: Path) -> None:
    need("nginx", "curl")
    proxy = start.proxy("--admin-token-file", token_file(tmp_path))
    (port,) = free_ports(1)
    authority = Authority.root(tmp_path)
    front, operator = authority.issue(NAME, file="front"), authority.issue("operator")
    text = configuration()
    for old, new in {
        "127.0.0.1:8404": written(proxy.admin),
        "listen 443": f"listen {LOOPBACK}:{port}",
        "operators.pem": str(authority.path),
        "front.pem": str(front.certificate),
        "front.key": str(front.key),
    }.items():
        assert old in text
        text = text.replace(old, new)
    folders = "".join(f"{each}_temp_path {tmp_path}/{each};" for each in TEMPORARY)

    def curl(path: str, *options: str, origin: str = "", certificate: bool = True) -> tuple[int, str]:
        command = ["curl", "-sS", "-N", "--cacert", str(authority.path), "--resolve", f"{NAME}:{port}:{LOOPBACK}"]
        command += ["--cert", str(operator.certificate), "--key", str(operator.key)] if certificate else []
        command += ["-H", f"Origin: {origin}"] if origin else []
        command += ["-w", "\n%{http_code}", *options, f"https://{NAME}:{port}{path}"]
        body, _, status = subprocess.run(command, capture_output=True, text=True, check=False).stdout.rpartition("\n")
        return int(status), body

    with nginx(tmp_path, f"http {{ access_log off; {folders}\n{text} }}", (LOOPBACK, port)):
        assert curl("/api/backends", certificate=False)[0] == HTTPStatus.BAD_REQUEST
        assert curl("/static/page.js", origin=f"https://{NAME}")[0] == HTTPStatus.OK
        assert curl("/static/page.js", origin="https://elsewhere.example.org")[0] == HTTPStatus.FORBIDDEN
        changing = ("-X", "POST", "-H", f"Authorization: Bearer {TOKEN}")
        assert curl(KILL, *changing, origin=f"https://{NAME}")[0] == HTTPStatus.NOT_FOUND
        assert curl(KILL, *changing, origin="https://elsewhere.example.org")[0] == HTTPStatus.FORBIDDEN
        assert curl(KILL, "-X", "POST", origin=f"https://{NAME}")[0] == HTTPStatus.UNAUTHORIZED
        status, body = curl("/api/stream", "--max-time", "1.5")
        assert (status, "event: status\ndata: {" in body) == (HTTPStatus.OK, True)
