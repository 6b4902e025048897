"""Diffusion and flow models: from many steps to one."""
