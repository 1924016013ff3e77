"""The synthetic visual world: seeded scenes, their pixels, a language about them, task examples, and judges that read pixels back."""
