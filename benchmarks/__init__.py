"""Measurements of the pool beside its peers; `make bench` runs them."""
