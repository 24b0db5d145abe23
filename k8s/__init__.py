"""Limner on Kubernetes: manifests in YAML, and the Python that writes the generated part of them."""
