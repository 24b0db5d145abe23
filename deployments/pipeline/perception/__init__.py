"""What a picture shows: masks from words, attributes, faces, and whether it may be shown. No ray, no HTTP."""
