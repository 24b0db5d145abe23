"""PowerPaint's tasks as a layer over inpainting. No ray, no HTTP."""
