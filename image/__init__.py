"""The container image: what the Dockerfile calls, and what calls the Dockerfile."""
