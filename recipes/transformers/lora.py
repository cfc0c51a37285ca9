"""LoRA in a federation: a small BERT with random weights learns the tone of reviews.

    hre-torch run --participants 4 recipes/transformers/lora.py
    python recipes/transformers/lora.py --simulate 4

The base is frozen and the same for everybody; adapters and the classifier are trained,
and they alone are exchanged.
"""

from __future__ import annotations

import argparse
import copy
import itertools
import tempfile

import torch
from peft import LoraConfig, get_peft_model
from torch import nn
from torch.utils.data import Dataset
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    Trainer,
    TrainingArguments,
)

import hre_torch
from hre_torch.integrations.transformers import federate

GOOD = ("fine", "warm", "bright", "kind", "clever", "moving")
BAD = ("dull", "cold", "grim", "rude", "silly", "flat")
THINGS = ("film", "plot", "cast", "music", "ending", "dialogue", "picture", "pace")
VERBS = ("was", "seemed", "felt", "stayed")
OFTEN = ("very", "rather", "never", "always")
WORDS = ("the", *GOOD, *BAD, *THINGS, *VERBS, *OFTEN)


class Reviews(Dataset[dict[str, torch.Tensor]]):
    """Sentences such as "the plot was never dull"; "never" turns the tone round."""

    def __init__(self, part: int) -> None:
        number = {word: place for place, word in enumerate(WORDS)}
        sentences = itertools.product(THINGS, VERBS, OFTEN, GOOD + BAD)
        chosen = [each for place, each in enumerate(sentences) if place % 5 % 2 == part]
        self._items = [
            {
                "input_ids": torch.tensor([number[w] for w in ("the", *sentence)]),
                "labels": torch.tensor(
                    int((sentence[3] in GOOD) != (sentence[2] == "never"))
                ),
            }
            for sentence in chosen
        ]

    def __len__(self) -> int:
        return len(self._items)

    def __getitem__(self, place: int) -> dict[str, torch.Tensor]:
        return self._items[place]


def base_model() -> nn.Module:
    """Return the base; with real weights it would be `from_pretrained(...)`."""
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(WORDS),
        hidden_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=64,
        max_position_embeddings=8,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )
    return BertForSequenceClassification(config)


def with_adapters(base: nn.Module) -> nn.Module:
    """Return a copy of the base whose adapters and classifier alone are trained."""
    adapters = LoraConfig(
        task_type="SEQ_CLS", r=8, lora_alpha=32, target_modules=["query", "value"]
    )
    return get_peft_model(copy.deepcopy(base), adapters)


def train(base: nn.Module, epochs: int) -> nn.Module:
    """Train one participant on its part of the reviews."""
    model = with_adapters(base)
    with tempfile.TemporaryDirectory() as folder:
        trainer = Trainer(
            model=model,
            args=TrainingArguments(
                output_dir=folder,
                num_train_epochs=epochs,
                per_device_train_batch_size=16,
                learning_rate=1e-2,
                logging_steps=20,
                save_strategy="no",
                report_to="none",
                disable_tqdm=True,
                use_cpu=True,
            ),
            train_dataset=hre_torch.share(Reviews(0)),
        )
        federate(trainer, hre_torch.join(model), push_every=5, pull_every=5)
        trainer.train()
    return model


@torch.no_grad()
def accuracy(model: nn.Module) -> float:
    """Return the share of unseen reviews whose tone a model tells."""
    model.eval()
    reviews = Reviews(1)
    words = torch.stack([each["input_ids"] for each in reviews])
    tones = torch.stack([each["labels"] for each in reviews])
    logits = model(input_ids=words).logits
    return float((logits.argmax(dim=1) == tones).float().mean())


def main() -> None:
    """Train as this participant, or simulate several in this process."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--simulate", type=int, metavar="PARTICIPANTS")
    args = parser.parse_args()
    base = base_model()
    if args.simulate:
        state = hre_torch.simulate(
            lambda: train(base, args.epochs), participants=args.simulate
        )
        model = with_adapters(base)
        model.load_state_dict(state)
    else:
        model = train(base, args.epochs)
    print(f"accuracy on unseen reviews {accuracy(model):.4f}")


if __name__ == "__main__":
    main()
