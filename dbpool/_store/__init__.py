"""What a pool has: its connections, who waits for them, what was counted. It waits for nothing."""
