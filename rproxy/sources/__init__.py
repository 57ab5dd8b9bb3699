"""What fills the pool with back-ends."""
