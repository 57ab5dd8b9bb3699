"""Back-ends of this proxy's last run, kept in a file."""
