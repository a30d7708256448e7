"""Django's own test suite, run with a backend of ours: `python -m tests.django_suite`."""
