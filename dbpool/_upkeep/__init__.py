"""What a pool does by itself: sweeps, checks, limits, and the end of connections."""
