"""Back-ends that register themselves: the proxy's side of the monitoring protocol."""
