"""How a connection comes to be: when one is wanted, how it is made, what a failure means."""
