"""What operators see. Reads the table, never changes it."""
