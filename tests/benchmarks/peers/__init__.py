"""The proxy beside HAProxy, nginx, Twisted's own port forwarder and no proxy at all, on one machine.

Run by hand, with nothing else running: `python -m tests.benchmarks.peers`. Needs Linux and the Debian packages haproxy,
nginx-light, libnginx-mod-stream and wrk; takes some eleven minutes on two cores.

Every peer has one process or worker, which the scheduler may put on any core, and is configured as its documentation
advises. One nginx is the back-end, one wrk thread with 64 connections the client. CPU is that of the proxy alone, from
/proc/PID/stat; memory is what it alone has written to. Latency is that of a client of our own, because wrk knows no
rate. Streams are sent from the page cache and dropped by the kernel of who receives them, so that neither end is slower
than the proxies. TLS is terminated by our portable carrier and by HAProxy, with keys of the same kind and the default
ciphers of each; there the client's end is slower, and the proxy's CPU is what tells.
"""
