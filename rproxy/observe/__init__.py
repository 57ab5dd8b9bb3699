"""What operators see of the proxy: status, counters, logs. Reads, and changes nothing."""
