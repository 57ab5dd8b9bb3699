"""What a proxy and an agent are told: one frozen model, and the command lines that fill it in."""
