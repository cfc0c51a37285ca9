"""A loop by accelerate: accumulated gradients, clipping, a cosine schedule."""

import argparse

import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader, TensorDataset


def sets():
    data, target = load_digits(return_X_y=True)
    data = torch.tensor(data, dtype=torch.float32) / 16
    target = torch.tensor(target)
    train, test = slice(0, 1500), slice(1500, None)
    return (
        TensorDataset(data[train], target[train]),
        TensorDataset(data[test], target[test]),
    )


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--epochs", type=int, default=3)
    args = parser.parse_args()

    accelerator = Accelerator(cpu=True, gradient_accumulation_steps=2)
    set_seed(42)
    train_set, test_set = sets()
    train_loader = DataLoader(train_set, batch_size=25, shuffle=True)
    test_loader = DataLoader(test_set, batch_size=100)

    model = nn.Sequential(nn.Linear(64, 48), nn.ReLU(), nn.Linear(48, 10))
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(
        optimizer, T_max=args.epochs * len(train_loader) // 2
    )
    model, optimizer, train_loader, test_loader, scheduler = accelerator.prepare(
        model, optimizer, train_loader, test_loader, scheduler
    )

    for epoch in range(args.epochs):
        model.train()
        for inputs, labels in train_loader:
            with accelerator.accumulate(model):
                loss = nn.functional.cross_entropy(model(inputs), labels)
                accelerator.backward(loss)
                if accelerator.sync_gradients:
                    accelerator.clip_grad_norm_(model.parameters(), 1.0)
                optimizer.step()
                scheduler.step()
                optimizer.zero_grad()
        model.eval()
        losses, hits, count = 0.0, 0, 0
        for inputs, labels in test_loader:
            with torch.no_grad():
                outputs = model(inputs)
            outputs, labels = accelerator.gather_for_metrics((outputs, labels))
            losses += nn.functional.cross_entropy(outputs, labels).item() * len(labels)
            hits += (outputs.argmax(1) == labels).sum().item()
            count += len(labels)
        accelerator.print(
            f"epoch {epoch}: loss {losses / count:.4f} accuracy {hits / count:.4f}"
        )


if __name__ == "__main__":
    main()
