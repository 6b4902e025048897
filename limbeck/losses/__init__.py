"""Pure functions over tensors, unreduced over the batch; import them from the submodules."""
