"""A fleet of engines in virtual time; what of it is assumed is data, in ``assumptions.toml``."""
