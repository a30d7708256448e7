"""Do the tests see a mistake? `make mutants` plants some and runs the tests that should fail."""
