"""Django on a dbpool connection pool."""
