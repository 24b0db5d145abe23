"""Adapter files: LoRA weights in the layouts of PEFT, diffusers and kohya."""
