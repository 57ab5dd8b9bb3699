"""`python -m rproxy`."""

import sys

from rproxy.tap.command import main

sys.exit(main())
