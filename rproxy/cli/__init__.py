"""The operators' commands, which talk to a proxy's HTTP listener: `rproxy status`, `drain` and others."""
