"""Rewards: what an answer is worth. `base.py` has the contract and the registry; the other modules are the kinds."""
