"""What was done to a source to get a grown checkpoint that brings no record: inferred from both, and never believed.

``kinds`` says what new coordinates must carry, ``scales`` by what source coordinates must be multiplied, ``layers``
which layers are new, ``infer`` puts a record together and chooses between several. The record is a claim: conditions
and requirements check it as they check any other, so that a wrong one can give a false alarm, never a false verdict
that all holds. Nothing here imports the planner.
"""
