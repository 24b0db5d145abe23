"""Model weights: the embedded model, the recipe that trains it and the manifest of downloadable files."""
