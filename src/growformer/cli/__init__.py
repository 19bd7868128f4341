"""The command line: ``growformer inspect``, ``plan``, ``grow``, ``pad`` and ``verify``.

One file per command, thin over ``growformer.api``. ``options`` holds what commands share, ``request`` turns options and
a recipe into keywords of the API, ``render`` prints. Nothing here knows how models grow, and nothing heavy is imported
before a command needs it.
"""
