"""Ours and HAProxy choose among four real hosts of unequal speed that have other work, too.

Run by hand, with nothing else running: `python -m tests.benchmarks.hosts`. Needs Linux, root, two cores, a CPU
controller of cgroups (v1 or v2) and the Debian packages haproxy and iproute2; takes an hour and a half.

Each host is a network namespace and a cgroup with a CPU quota: 30, 30, 15 and 55 % of a core. In it run a service,
which shares its CPU among its requests; a hog, which takes 30 to 80 % of the quota for some seconds at a time; and what
a proxy asks for its figures: our agent, or the answers to HAProxy's agent checks. All of these are inside the quota,
and both report the CPU use of it. Every proxy has a namespace of its own, and so has the client.

A request costs 8 ms of the service's CPU on average, exponentially distributed. There are 70 % of the requests that the
hosts were measured to sustain beside the hogs of that round, and a response time counts from when its request was due.
In the pool *short*, each has a connection of its own and is due at a time of a Poisson process, whatever the answers to
others take (an open loop). In *long*, connections live for half a run; nine tenths have seldom work and one tenth
often, each time a pause after the last answer. Each connection uses one proxy, drawn at random.

In every round each contender runs once, at a different place in the order, against the same arrivals, works and hogs.
A run does not count, and is repeated, if a host got less CPU than its quota while it had work, or if the client was
late: then the machine was too busy. Results are compared round by round. Exits with status 1 if the default policy's
p99 by that of HAProxy's best misses its aim.
"""
