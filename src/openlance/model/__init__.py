"""The model: two expert streams through one transformer, with the encoders that bring media in and latents out."""
