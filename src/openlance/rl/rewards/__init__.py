"""Rewards: what a picture is worth, by name."""

from openlance.rl.rewards.registry import REWARDS, find_reward
from openlance.rl.rewards.score import Reward, Score

__all__ = ["REWARDS", "Reward", "Score", "find_reward"]
