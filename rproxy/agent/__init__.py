"""The back-end's own program: registers its host, samples its load and answers probes."""
