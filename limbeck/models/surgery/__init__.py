"""Students by surgery: a language model with fewer blocks, neurons, heads, words, weights or bits.

One idea a file. Whatever changes a network's shape returns a new :class:`limbeck.models.causal_lm.CausalLM` and leaves
the one it was given as it was.
"""

from limbeck.models.surgery.adapters import lora, merge
from limbeck.models.surgery.depth import (
    angular_distances,
    block_influence,
    least_important_run,
    spaced,
    truncate,
)

__all__ = ["angular_distances", "block_influence", "least_important_run", "lora", "merge", "spaced", "truncate"]
