"""The two twistd commands: make services of their options."""
