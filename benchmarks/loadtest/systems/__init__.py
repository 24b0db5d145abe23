"""The services that the load test compares, each started and asked in its own way."""
