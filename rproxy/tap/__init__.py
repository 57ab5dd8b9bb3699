"""The two twistd commands: make services of their options."""

import gc

# Imports make many objects and no garbage: with the usual thresholds a start takes a tenth more CPU time. What they are
# in a running proxy, `tap.garbage_collector` says.
gc.set_threshold(10_000, 10, 10)
