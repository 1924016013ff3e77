"""Flow matching as pure functions on tensors: the path, guidance, solvers."""
