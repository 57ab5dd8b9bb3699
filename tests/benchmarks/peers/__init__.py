"""The proxy beside HAProxy, nginx, Twisted's own port forwarder and no proxy at all, on one machine.

Run by hand, with nothing else running: `python -m tests.benchmarks.peers`. Needs Linux and the Debian packages haproxy,
nginx-light, libnginx-mod-stream and wrk.
"""
