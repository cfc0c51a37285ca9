"""LoRA by PEFT: a frozen encoder, low-rank adapters, a loop of one's own."""

import argparse

import torch
from peft import LoraConfig, TaskType, get_peft_model
from torch.utils.data import DataLoader, TensorDataset
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    get_linear_schedule_with_warmup,
)

WORDS, LENGTH = 24, 6


def sentences(size, seed):
    """Sentences of random words; the label says which half of the words they are of."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(size) % 2
    words = torch.randint(0, WORDS // 2, (size, LENGTH), generator=generator)
    return TensorDataset(words + labels.unsqueeze(1) * (WORDS // 2), labels)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--lr", type=float, default=1e-2)
    args = parser.parse_args()

    torch.manual_seed(11)
    config = BertConfig(
        vocab_size=WORDS,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=LENGTH,
    )
    model = BertForSequenceClassification(config)
    peft_config = LoraConfig(
        task_type=TaskType.SEQ_CLS,
        r=4,
        lora_alpha=16,
        lora_dropout=0.1,
        target_modules=["query", "value"],
    )
    model = get_peft_model(model, peft_config)
    model.print_trainable_parameters()

    train_set = sentences(256, seed=0)
    train_loader = DataLoader(train_set, batch_size=16, shuffle=True)
    eval_loader = DataLoader(sentences(200, seed=1), batch_size=100)

    optimizer = torch.optim.AdamW(model.parameters(), lr=args.lr)
    steps = len(train_loader) * args.epochs
    scheduler = get_linear_schedule_with_warmup(optimizer, 4, steps)

    for epoch in range(args.epochs):
        model.train()
        for words, labels in train_loader:
            loss = model(input_ids=words, labels=labels).loss
            loss.backward()
            optimizer.step()
            scheduler.step()
            optimizer.zero_grad()
        model.eval()
        losses, hits = 0.0, 0
        with torch.no_grad():
            for words, labels in eval_loader:
                output = model(input_ids=words, labels=labels)
                losses += output.loss.item() / len(eval_loader)
                hits += (output.logits.argmax(-1) == labels).sum().item()
        accuracy = hits / len(eval_loader.dataset)
        print(f"epoch {epoch}: loss {losses:.4f} accuracy {accuracy:.4f}")


if __name__ == "__main__":
    main()
