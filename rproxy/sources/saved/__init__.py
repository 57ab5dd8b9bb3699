"""Back-ends of this proxy's last life, kept in a file."""
