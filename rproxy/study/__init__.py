"""`rproxy study`: the real pool, monitor and policies against simulated hosts, in virtual time."""
