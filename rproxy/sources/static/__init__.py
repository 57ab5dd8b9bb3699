"""Back-ends that the configuration names: their addresses, and checks of them."""
