"""The product layer: resolve, preflight, control, distil, evaluate, report."""
