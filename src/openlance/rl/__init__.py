"""Stage four: reinforcement learning of the generation expert from rewards on what it draws."""
