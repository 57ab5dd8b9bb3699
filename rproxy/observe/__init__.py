"""What operators see. Reads snapshots, never changes anything."""
