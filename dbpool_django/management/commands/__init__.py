"""The command `manage.py dbpool`."""
