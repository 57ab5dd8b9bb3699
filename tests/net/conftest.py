"""The sockets of these tests are closed as those of the carriers' are."""

from tests.carriers.conftest import _others_garbage, _running_reactor, stack

__all__ = ["_others_garbage", "_running_reactor", "stack"]
