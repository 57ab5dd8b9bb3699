"""What the proxy knows of its back-ends. Pure: time comes in as a number."""
