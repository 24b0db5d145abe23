"""Inpainting: a picture painted anew inside a mask, and nowhere else. No ray, no HTTP."""
