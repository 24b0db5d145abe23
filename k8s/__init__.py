"""What runs Limner on Kubernetes. The manifests are YAML; the Python here writes the part of them that is generated."""
