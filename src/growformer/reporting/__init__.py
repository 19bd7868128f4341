"""Pictures and words about a growth: one HTML page that stands alone, fragments for notebooks, blocks for a terminal.

Everything is drawn from a record (``verification.recorded``) and from what ``verification.requirements`` demands, and
so shows what is checked rather than what was planned. Text from a checkpoint is escaped wherever it is shown.
"""
