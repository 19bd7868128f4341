"""``python examples/grow_smollm2.py``: grow a language model, and read the same text from it.

SmolLM2-135M-Instruct grows twice: in hidden size, MLP, heads, key-value heads and depth together, to twice its
parameters; and in the size of its heads alone. Both results are stock checkpoints: what follows uses transformers
only. Each model answers ten questions greedily, token by token, and computes the logits of the source's answers.
Exits with 1 if a token differs, or a logit by more than the tolerance. Two minutes on two cores.

On the command line the first growth is

    growformer grow weights/smollm2-135m-instruct grown/smollm2-270m --hidden-size 768 --intermediate-size 2112 \
        --num-attention-heads 12 --num-key-value-heads 4 --num-hidden-layers 36
"""

from __future__ import annotations

import argparse
import shutil
import sys
import textwrap
import time
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path

import torch
import transformers

import growformer
import weights

GROWN = Path(__file__).resolve().parent.parent / "grown"

GROWTHS = {
    # Every size but head_dim. 12 / 4 heads keep the source's three query heads for each key-value head.
    "smollm2-270m": {
        "hidden_size": 768,
        "intermediate_size": 2112,
        "num_attention_heads": 12,
        "num_key_value_heads": 4,
        "num_hidden_layers": 36,
    },
    # Twice the head_dim keeps every rotary frequency to the last bit or so, at any position.
    "smollm2-wide-heads": {"head_dim": 128},
}

QUESTIONS = [
    "Why is the sky blue?",
    "What is the capital of France?",
    "Explain gravity to a child.",
    "Write a short poem about the sea.",
    "Name three fruits.",
    "How do I boil an egg?",
    "Translate 'good morning' into Spanish.",
    "Write a Python function that adds two numbers.",
    "Who wrote Romeo and Juliet?",
    "Give me a tip for sleeping better.",
]

#: Largest difference of a logit, relative to the largest logit, both models in float32.
TOLERANCE = 2e-5


@dataclass(frozen=True, kw_only=True, slots=True)
class Answers:
    """What one model said.

    Attributes:
        tokens: [question, token], prompts and answers, padded on the left and after the end.
        logits: [position, vocabulary] in float32, at every position of the text they were asked for that counts.
        texts: the answers.
        parameters: how many the model has.
        seconds: the time it took to write the answers.
    """

    tokens: torch.Tensor
    logits: torch.Tensor
    texts: list[str]
    parameters: int
    seconds: float


@torch.inference_mode()
def answer(folder: Path, *, new_tokens: int, reference: Answers | None = None) -> Answers:
    """Load the checkpoint in ``folder`` with stock transformers, and let it answer the questions.

    The logits are those of ``reference``'s text, so that they can be compared even where texts differ.
    """
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder, padding_side="left")
    model, loading = transformers.AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, output_loading_info=True
    )
    complaints = {what: names for what, names in loading.items() if names}
    if complaints:
        raise SystemExit(f"error: {folder} does not load cleanly: {complaints}")
    prompts = tokenizer.apply_chat_template(
        [[{"role": "user", "content": question}] for question in QUESTIONS],
        add_generation_prompt=True,
        padding=True,
        return_dict=True,
        return_tensors="pt",
    )
    start = time.perf_counter()
    tokens = model.generate(**prompts, do_sample=False, max_new_tokens=new_tokens)
    seconds = time.perf_counter() - start
    prompt_length = prompts["input_ids"].shape[1]

    text = tokens if reference is None else reference.tokens
    counts = torch.ones_like(text)
    counts[:, :prompt_length] = prompts["attention_mask"]
    return Answers(
        tokens=tokens,
        logits=model(input_ids=text, attention_mask=counts).logits[counts.bool()],
        texts=tokenizer.batch_decode(tokens[:, prompt_length:], skip_special_tokens=True),
        parameters=model.num_parameters(),
        seconds=seconds,
    )


def compare(source: Answers, grown: Answers) -> bool:
    """Print the first answer of both models and what differs, and return whether they agree."""
    same = [torch.equal(ours, theirs) for ours, theirs in zip(source.tokens, grown.tokens, strict=True)]
    difference = ((grown.logits - source.logits).abs().max() / source.logits.abs().max()).item()
    print(f"\n  {QUESTIONS[0]}\n")
    print_columns(
        [f"source, {source.parameters:,} parameters", "", *textwrap.wrap(source.texts[0], 52)],
        [f"grown, {grown.parameters:,} parameters", "", *textwrap.wrap(grown.texts[0], 52)],
    )
    print(f"\n  same text, token for token     {sum(same)} of {len(same)} answers")
    print(f"  largest difference of a logit  {difference:.1e} of the largest logit (at most {TOLERANCE:.0e}, float32)")
    print(f"  parameters                     {grown.parameters / source.parameters:.2f} times the source's")
    print(f"  time to answer                 {source.seconds:.1f} s before, {grown.seconds:.1f} s after")
    return all(same) and difference <= TOLERANCE


def print_columns(left: list[str], right: list[str]) -> None:
    """Print two columns of lines side by side."""
    for ours, theirs in zip_longest(left, right, fillvalue=""):
        print(f"  {ours:<54}{theirs}".rstrip())


def main() -> int:
    """Grow, compare, and return 0 if nothing differs, 1 otherwise."""
    parser = argparse.ArgumentParser(description="Grow SmolLM2, and read the same text from it.")
    parser.add_argument("--tokens", type=int, default=48, help="length of the answers (default: 48)")
    new_tokens = parser.parse_args().tokens
    transformers.utils.logging.disable_progress_bar()
    folder = weights.smollm2()
    source = answer(folder, new_tokens=new_tokens)
    agree = []
    for name, sizes in GROWTHS.items():
        print(f"\n{name}: " + ", ".join(f"{field} = {size}" for field, size in sizes.items()), flush=True)
        target = GROWN / name
        GROWN.mkdir(exist_ok=True)
        shutil.rmtree(target, ignore_errors=True)  # growformer never writes over a folder that is there
        start = time.perf_counter()
        growformer.grow_checkpoint(folder, target, **sizes)
        print(f"  grown in {time.perf_counter() - start:.1f} s: {target}", flush=True)
        print(textwrap.indent(str(growformer.verify(folder, target)), "  "), flush=True)
        agree.append(compare(source, answer(target, new_tokens=new_tokens, reference=source)))
    print("\nThe grown models say what the source says." if all(agree) else "\nFAILED: the models differ.")
    return 0 if all(agree) else 1


if __name__ == "__main__":
    try:
        sys.exit(main())
    except (growformer.GrowformerError, weights.WeightsError) as error:
        sys.exit(f"error: {error}")
