"""A small vision transformer of timm: layer-wise learning rates, warm-up, averages."""

import argparse

import timm
import torch
from sklearn.datasets import load_digits
from timm.optim import create_optimizer_v2
from timm.scheduler import CosineLRScheduler
from timm.utils import ModelEmaV3
from torch import nn
from torch.utils.data import DataLoader, TensorDataset


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--layer-decay", type=float, default=0.75)
    args = parser.parse_args()

    torch.manual_seed(17)
    digits = load_digits()
    images = torch.tensor(digits.images, dtype=torch.float32).unsqueeze(1) / 8 - 1
    target = torch.tensor(digits.target)
    train_set = TensorDataset(images[:1400], target[:1400])
    train_loader = DataLoader(train_set, batch_size=50, shuffle=True)

    model = timm.models.VisionTransformer(
        img_size=8,
        patch_size=2,
        in_chans=1,
        num_classes=10,
        embed_dim=24,
        depth=2,
        num_heads=2,
        mlp_ratio=2,
    )
    optimizer = create_optimizer_v2(
        model, opt="adamw", lr=1e-2, weight_decay=0.05, layer_decay=args.layer_decay
    )
    scheduler = CosineLRScheduler(
        optimizer, t_initial=args.epochs, warmup_t=1, warmup_lr_init=3e-3
    )
    averaged = ModelEmaV3(model, decay=0.9)
    criterion = nn.CrossEntropyLoss(label_smoothing=0.05)

    updates = 0
    for epoch in range(args.epochs):
        model.train()
        scheduler.step(epoch)
        for inputs, labels in train_loader:
            loss = criterion(model(inputs), labels)
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 5.0)
            optimizer.step()
            averaged.update(model, step=updates)
            updates += 1
        for name, net in (("average", averaged.module), ("model", model)):
            net.eval()
            with torch.no_grad():
                outputs = net(images[1400:])
                loss = nn.functional.cross_entropy(outputs, target[1400:]).item()
                hits = (outputs.argmax(1) == target[1400:]).float().mean().item()
            print(f"epoch {epoch} {name}: loss {loss:.4f} accuracy {hits:.4f}")


if __name__ == "__main__":
    main()
