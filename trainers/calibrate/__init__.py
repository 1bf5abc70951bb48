"""The environment's parameters from public data: one module for each data set."""
