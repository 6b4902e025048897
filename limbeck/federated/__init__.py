"""Clients that train where their data are, and a server that never sees them: messages, partitions, grids, rounds."""
