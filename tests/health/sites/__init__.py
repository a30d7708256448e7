"""A site per framework that does all it can to answer a load balancer itself.

It accepts one host, sends plain HTTP to HTTPS, and lets nobody in without a login. Run by gunicorn
(`tests.health.sites.flask_site:app()`) it finds its database in GOLDEN_URL and brings its pool
into the situation GOLDEN_SITUATION.
"""
