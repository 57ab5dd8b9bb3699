"""The Linux carrier: one epoll of its own, and splice(2)."""
