"""Two models of one ancestry -> one between them. Weights of runs that went on from the same model can be averaged, and the average is
often better than either (model soups, arXiv 2203.05482); measured on the embedded model in LOG.md.
"""

import torch
from torch import Tensor

from openlance.errors import CheckpointError
from openlance.model.lance import LanceModel


@torch.no_grad()
def average_tensors(one: LanceModel, other: LanceModel, share: float) -> dict[str, Tensor]:
    """By name, (1 - share) of `one` and `share` of `other`, computed in float32.

    Raises CheckpointError where `share` is not between 0 and 1, or naming the weights in which the models differ.
    """
    if not 0 <= share <= 1:
        raise CheckpointError(f"share {share} must be from 0, the first model alone, to 1, the second alone")
    first, second = one.state_dict(), other.state_dict()
    odd = [name for name in sorted(first.keys() | second.keys()) if _shape(first, name) != _shape(second, name)]
    if odd:
        raise CheckpointError(f"the models differ in {len(odd)} weights, such as {', '.join(odd[:3])}: average models of one configuration")
    return {name: torch.lerp(tensor.float(), second[name].float(), share) for name, tensor in first.items()}


def _shape(tensors: dict[str, Tensor], name: str) -> torch.Size | None:
    return tensors[name].shape if name in tensors else None
