"""The configuration of a proxy and an agent: a frozen model, and the command lines that fill it in."""
