"""A small BERT learns, by the Trainer of transformers, which sentences have a word."""

import argparse
import tempfile

import numpy as np
import torch
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    Trainer,
    TrainingArguments,
    set_seed,
)

WORDS, LENGTH = 30, 8


class Sentences(torch.utils.data.Dataset):
    """Sentences of random words; the label says whether word 3 is among them."""

    def __init__(self, size, seed):
        generator = torch.Generator().manual_seed(seed)
        self.words = torch.randint(4, WORDS, (size, LENGTH), generator=generator)
        self.labels = torch.arange(size) % 2
        place = torch.randint(0, LENGTH, (size,), generator=generator)
        chosen = self.labels.bool()
        self.words[chosen, place[chosen]] = 3

    def __len__(self):
        return len(self.labels)

    def __getitem__(self, index):
        return {"input_ids": self.words[index], "labels": self.labels[index]}


def accuracy(predicted):
    logits, labels = predicted
    return {"accuracy": float((np.argmax(logits, axis=-1) == labels).mean())}


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--epochs", type=int, default=4)
    args = parser.parse_args()

    set_seed(7)
    config = BertConfig(
        vocab_size=WORDS,
        hidden_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=LENGTH,
    )
    model = BertForSequenceClassification(config)
    train_set = Sentences(512, seed=0)
    with tempfile.TemporaryDirectory() as folder:
        trainer = Trainer(
            model=model,
            args=TrainingArguments(
                output_dir=folder,
                num_train_epochs=args.epochs,
                per_device_train_batch_size=32,
                learning_rate=5e-3,
                warmup_steps=5,
                weight_decay=0.01,
                logging_steps=16,
                save_strategy="no",
                report_to="none",
                disable_tqdm=True,
                use_cpu=True,
            ),
            train_dataset=train_set,
            eval_dataset=Sentences(400, seed=1),
            compute_metrics=accuracy,
        )
        trainer.train()
        figures = trainer.evaluate()
    print(f"loss {figures['eval_loss']:.4f} accuracy {figures['eval_accuracy']:.4f}")


if __name__ == "__main__":
    main()
