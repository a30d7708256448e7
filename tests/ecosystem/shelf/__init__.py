"""An app with a table, for packages that work on models."""
