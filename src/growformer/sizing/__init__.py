"""Chooses sizes: ``padding`` those that a consumer can split, ``suggest`` those of a parameter count.

Sizes only: what becomes of the weights is the planner's, which also judges every choice made here. No tensor, no torch.
"""
