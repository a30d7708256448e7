"""A connection pool for PostgreSQL, usable from Django, Flask or alone."""
