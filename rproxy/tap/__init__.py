"""The two twistd commands: options in, wired services out."""
