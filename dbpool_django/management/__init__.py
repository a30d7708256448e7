"""The command `manage.py dbpool`; needs the app in INSTALLED_APPS."""
