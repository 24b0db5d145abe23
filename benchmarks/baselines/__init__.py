"""What Limner is compared with: diffusers pipelines behind Ray Serve and LitServe."""
