"""Makers of examples: each draws one of a category, or None where the scene that came has no room for it. `world.tasks` lists them."""
