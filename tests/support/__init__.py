"""What several test modules share; nothing in here is collected as a test."""
