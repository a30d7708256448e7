"""What pools do when the database is not well: `python -m tests.outages`, `make test-outages`.

A crowd of processes (load.py, crowd.py) calls through a pool while a scenario (scenarios.py) breaks
the server or the network (stages.py, network.py); figures.py turns what the crowd saw into the
marks, tables.py prints them.
"""
