"""One module a command: `add_arguments(parser)` and `run(args) -> int`. The module's docstring is its help."""
