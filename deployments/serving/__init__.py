"""What the replica classes share of Ray Serve."""
