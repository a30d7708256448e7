"""The tests of dbpool and its adapters."""
