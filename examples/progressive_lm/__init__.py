"""Train a small Llama on real text, grow it twice, and compare with training from scratch.

python -m examples.progressive_lm --arms grown scratch     # ten minutes on two cores
python -m examples.progressive_lm --seeds 0 1 2            # all arms: what docs/training.md shows

settings.py   how large, how long
corpus.py     the text
arms.py       the ways to get to the large model
train.py      one run
curves.py     tables and pictures of many
"""
