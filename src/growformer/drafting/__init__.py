"""Drafts a declaration for a model that no family describes: from its class's shapes, its names, and its symmetries.

``measure`` builds the class at sizes that differ in one config field and finds what every dimension depends on;
``nearest`` finds the declared family whose names are most alike; ``draft`` puts both together, lets the oracles judge
the result and marks what it is unsure of; ``code`` writes it as Python. A draft is a start for a person, not an answer.
"""
