"""One thread a process: tiny tensors gain nothing from more, and several test processes share the cores."""

import torch

torch.set_num_threads(1)
