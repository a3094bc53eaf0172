"""Reinforcement learning: groups of episodes, scored by rewards, and a policy gradient over their tokens as sampled."""
