"""Judges of the world: they read pixels and words, never the scene that made them."""

from openlance.world.judge.verdict import Verdict, judge, judge_story, judge_turn

__all__ = ["Verdict", "judge", "judge_story", "judge_turn"]
