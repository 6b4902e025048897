"""Students by surgery: a language model with fewer blocks, neurons, heads, words, weights or bits.

One idea a file. Whatever changes a network's shape returns a new :class:`limbeck.models.causal_lm.CausalLM` and leaves
the one it was given as it was; masks, rounding and adapters are put on the network itself.
"""

from limbeck.models.surgery.adapters import lora, merge
from limbeck.models.surgery.bits import quantise, settle
from limbeck.models.surgery.depth import (
    angular_distances,
    block_influence,
    least_important_run,
    spaced,
    truncate,
)
from limbeck.models.surgery.sparsity import Masks, sparsify, sparsity
from limbeck.models.surgery.vocabulary import trim
from limbeck.models.surgery.width import group_importance, narrow, neuron_importance

__all__ = [
    "Masks",
    "angular_distances",
    "block_influence",
    "group_importance",
    "least_important_run",
    "lora",
    "merge",
    "narrow",
    "neuron_importance",
    "quantise",
    "settle",
    "spaced",
    "sparsify",
    "sparsity",
    "trim",
    "truncate",
]
