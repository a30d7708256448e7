"""Flask on a dbpool connection pool."""
