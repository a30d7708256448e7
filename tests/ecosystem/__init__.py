"""dbpool beside the packages that people really run with it: `make test-ecosystem`."""
