"""`/healthz/db`: the exchange, the prober behind it, and what both adapters must answer."""
