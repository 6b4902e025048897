"""The face a network shows to methods, small networks to start with, and how any of them is loaded."""
