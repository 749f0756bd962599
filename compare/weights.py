"""The names of ``compare.mapping`` that the checks use."""

from compare.mapping.leaves import TorchLeaf, torch_leaves
from compare.mapping.proposal import propose_mapping
from compare.mapping.rules import Rule
from compare.mapping.weight_mapping import Choice, MappingProblem, WeightMapping

__all__ = ["Choice", "MappingProblem", "Rule", "TorchLeaf", "WeightMapping", "propose_mapping", "torch_leaves"]
