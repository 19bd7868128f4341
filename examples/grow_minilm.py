"""``python examples/grow_minilm.py``: grow a sentence encoder, and find the same sentences similar.

MiniLM-L6-v2 grows twice: its MLP and its depth; then, from that, its hidden size to the double, with twice the heads.
Cosine similarities between ten sentences are computed through transformers (mean pooling by hand) and through
sentence-transformers, before and after. Exits with 1 if one of them moves by more than the tolerance. Under a minute
on two cores.

On the command line the two growths are

    growformer grow weights/minilm-l6-v2 grown/minilm-deep --intermediate-size 2048 --num-hidden-layers 8
    growformer grow grown/minilm-deep grown/minilm-wide --hidden-size 768 --num-attention-heads 24
"""

from __future__ import annotations

import shutil
import sys
import time
from pathlib import Path

import torch
import transformers
from sentence_transformers import SentenceTransformer

import growformer
import weights

GROWN = Path(__file__).resolve().parent.parent / "grown"

# BERT has no size for a head of its own: heads are hidden_size / num_attention_heads wide, so their number grows with
# the hidden size. And the norm *behind* each block has learned gains, so that hidden sizes other than multiples of the
# source's cannot preserve what the model computes: growformer refuses them.
GROWTHS = {
    "minilm-deep": {"intermediate_size": 2048, "num_hidden_layers": 8},
    "minilm-wide": {"hidden_size": 768, "num_attention_heads": 24},
}

SENTENCES = [
    "A man is playing a guitar on the street.",
    "Someone makes music in front of the station.",
    "The cat sleeps on the warm windowsill.",
    "A kitten naps in the sun.",
    "The central bank raised interest rates again.",
    "Borrowing money has become more expensive.",
    "She finished the marathon in under three hours.",
    "The recipe needs two eggs and a cup of flour.",
    "Bake the cake for half an hour.",
    "Light travels faster than sound.",
]

#: Largest difference of a cosine similarity, in float32.
TOLERANCE = 1e-5


@torch.inference_mode()
def mean_pooled(folder: Path) -> torch.Tensor:
    """Return the sentences' unit vectors, [sentence, hidden], from stock transformers and a mean over the tokens."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    model = transformers.AutoModel.from_pretrained(folder, dtype=torch.float32)
    batch = tokenizer(SENTENCES, padding=True, return_tensors="pt")
    mask = batch["attention_mask"].unsqueeze(-1)
    mean = (model(**batch).last_hidden_state * mask).sum(dim=1) / mask.sum(dim=1)
    return torch.nn.functional.normalize(mean)


def encoded(folder: Path) -> torch.Tensor:
    """Return the sentences' unit vectors, [sentence, hidden], from sentence-transformers."""
    encoder = SentenceTransformer(str(folder), device="cpu", local_files_only=True)
    return encoder.encode(SENTENCES, convert_to_tensor=True)


def similarities(folder: Path) -> dict[str, torch.Tensor]:
    """Return the cosine similarities of all pairs, [sentence, sentence], one matrix for each library."""
    vectors = {"transformers": mean_pooled(folder), "sentence-transformers": encoded(folder)}
    return {library: unit @ unit.T for library, unit in vectors.items()}


def describe(folder: Path) -> str:
    """Return the sizes of the checkpoint in ``folder`` on one line."""
    config = transformers.AutoConfig.from_pretrained(folder)
    return (
        f"{config.num_hidden_layers} layers, hidden {config.hidden_size}, {config.num_attention_heads} heads,"
        f" MLP {config.intermediate_size}"
    )


def main() -> int:
    """Grow, compare, and return 0 if no similarity moved, 1 otherwise."""
    transformers.utils.logging.disable_progress_bar()
    folder = weights.minilm()
    before = similarities(folder)
    print(f"source: {describe(folder)}")
    after = {}
    for name, sizes in GROWTHS.items():
        target = GROWN / name
        GROWN.mkdir(exist_ok=True)
        shutil.rmtree(target, ignore_errors=True)  # growformer never writes over a folder that is there
        start = time.perf_counter()
        growformer.grow_checkpoint(folder, target, **sizes)
        print(f"{name}: {describe(target)}; grown in {time.perf_counter() - start:.1f} s", flush=True)
        print(growformer.verify(folder, target), flush=True)
        after[name] = similarities(target)
        folder = target

    print("\ncosine similarity of the first sentence to each, through sentence-transformers\n")
    print(f"{'':48}{'source':>10}" + "".join(f"{name:>14}" for name in after))
    for index, sentence in enumerate(SENTENCES):
        grown = "".join(f"{now['sentence-transformers'][0, index].item():14.6f}" for now in after.values())
        print(f"{sentence:<48}{before['sentence-transformers'][0, index].item():10.6f}{grown}")

    print(f"\nlargest difference between all {len(SENTENCES) ** 2} pairs (at most {TOLERANCE:.0e})\n")
    worst = 0.0
    for library, matrix in before.items():
        moved = [(now[library] - matrix).abs().max().item() for now in after.values()]
        worst = max(worst, *moved)
        print(f"{library:<58}" + "".join(f"{difference:14.1e}" for difference in moved))
    print("\nThe grown models find the same sentences similar." if worst <= TOLERANCE else "\nFAILED: they differ.")
    return 0 if worst <= TOLERANCE else 1


if __name__ == "__main__":
    try:
        sys.exit(main())
    except (growformer.GrowformerError, weights.WeightsError) as error:
        sys.exit(f"error: {error}")
