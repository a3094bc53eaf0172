"""Train, evaluate and decide whether a checkpoint may ship. The main path is `workbench.pipeline`."""

__version__ = "0.1.0"
