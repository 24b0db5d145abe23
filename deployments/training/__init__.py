"""Training of adapters: what a Ray task runs, and what it is given."""
