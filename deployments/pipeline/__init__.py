"""What the pipelines have in common: prompts, pictures, and denoising elsewhere. No ray, no HTTP."""
