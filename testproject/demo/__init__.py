"""`python -m testproject.demo`: both shops under load, and an account of what became of it."""
