"""How good a model is, by numbers: suites of held-out examples, answered in batches, judged by pixels.

suite --items--> rounds --answerer--> clips and texts --world's judge--> scores --> records on disk --> report
"""
