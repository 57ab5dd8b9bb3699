"""The parameters of a request, from its query."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from http import HTTPStatus
from urllib.parse import unquote_to_bytes

from rproxy.admin.answers import refuse
from rproxy.admin.channel import Request
from rproxy.observe.parameters import BadParameter


def parameters_of(request: Request, names: Collection[str]) -> Mapping[str, str]:
    """Those of the query, by name; each must be one of `names`, and given once. Raises `BadParameter`."""
    _, _, query = request.uri.partition(b"?")
    found: dict[str, str] = {}
    for part in filter(None, query.split(b"&")):
        name, _, value = (decoded(unquote_to_bytes(each.replace(b"+", b" "))) for each in part.partition(b"="))
        if name not in names:
            raise BadParameter(f"{name!r} is no parameter of this: {_listed(names)}")
        if name in found:
            raise BadParameter(f"{name} is given twice")
        found[name] = value
    return found


def takes_none(request: Request) -> bool:
    """Whether the request has no parameters; otherwise it has been answered."""
    try:
        parameters_of(request, ())
    except BadParameter as error:
        refuse(request, HTTPStatus.BAD_REQUEST, str(error))
        return False
    return True


def decoded(part: bytes) -> str:
    """A part of a request target, without percent-encoding, as text. Raises `BadParameter` if it is none in UTF-8."""
    try:
        return part.decode()
    except UnicodeDecodeError:
        raise BadParameter("what is asked for is no text in UTF-8") from None


def _listed(names: Collection[str]) -> str:
    return f"there {'are' if len(names) > 1 else 'is'} {', '.join(names)}" if names else "there are none"
