"""Shows that a grown model computes what its source computes, and that a declaration is true of its model.

``constraints``, ``outputs`` and ``trainability`` compare a source with what has grown from it; ``oracles`` compares a
declaration with the model's own class. ``constraints`` and ``oracles`` import no growth code, so that no mistake of the
planner can hide in them.
"""
