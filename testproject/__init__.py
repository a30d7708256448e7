"""A small shop, twice over the same tables: what the demo runs and the tests try."""
