"""Image classification with checkpoints: SGD, --resume, the best is kept aside."""

import argparse
import shutil
from pathlib import Path

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.optim.lr_scheduler import StepLR
from torch.utils.data import DataLoader, TensorDataset

parser = argparse.ArgumentParser(description="Image classification")
parser.add_argument("folder", type=Path, help="where checkpoints go")
parser.add_argument("--epochs", type=int, default=3)
parser.add_argument("--start-epoch", type=int, default=0)
parser.add_argument("--batch-size", type=int, default=50)
parser.add_argument("--lr", type=float, default=0.05)
parser.add_argument("--momentum", type=float, default=0.9)
parser.add_argument("--weight-decay", type=float, default=1e-4)
parser.add_argument("--resume", type=Path)
parser.add_argument("--seed", type=int, default=3)


def block(inputs, outputs, stride=1):
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(inplace=True),
    )


class SmallNet(nn.Module):
    def __init__(self, classes=10):
        super().__init__()
        self.stem = block(1, 8)
        self.body = nn.Sequential(block(8, 16, 2), block(16, 16))
        self.head = nn.Linear(16, classes)

    def forward(self, x):
        return self.head(self.body(self.stem(x)).mean(dim=(2, 3)))


def sets():
    digits = load_digits()
    images = torch.tensor(digits.images, dtype=torch.float32).unsqueeze(1) / 8 - 1
    targets = torch.tensor(digits.target)
    return (
        TensorDataset(images[:1400], targets[:1400]),
        TensorDataset(images[1400:], targets[1400:]),
    )


def train(loader, model, criterion, optimizer):
    model.train()
    for images, target in loader:
        loss = criterion(model(images), target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def validate(loader, model, criterion):
    model.eval()
    losses, hits, count = 0.0, 0, 0
    with torch.no_grad():
        for images, target in loader:
            output = model(images)
            losses += criterion(output, target).item() * len(target)
            hits += (output.argmax(1) == target).sum().item()
            count += len(target)
    print(f" * validation loss {losses / count:.4f} accuracy {hits / count:.4f}")
    return hits / count


def save_checkpoint(state, is_best, folder):
    torch.save(state, folder / "checkpoint.pth.tar")
    if is_best:
        shutil.copyfile(folder / "checkpoint.pth.tar", folder / "model_best.pth.tar")


def main():
    args = parser.parse_args()
    torch.manual_seed(args.seed)
    best_accuracy = 0.0

    model = SmallNet()
    criterion = nn.CrossEntropyLoss()
    optimizer = torch.optim.SGD(
        model.parameters(),
        args.lr,
        momentum=args.momentum,
        weight_decay=args.weight_decay,
    )
    scheduler = StepLR(optimizer, step_size=2, gamma=0.3)

    if args.resume:
        print(f"=> loading checkpoint '{args.resume}'")
        checkpoint = torch.load(args.resume, weights_only=True)
        args.start_epoch = checkpoint["epoch"]
        best_accuracy = checkpoint["best_accuracy"]
        model.load_state_dict(checkpoint["state_dict"])
        optimizer.load_state_dict(checkpoint["optimizer"])
        scheduler.load_state_dict(checkpoint["scheduler"])

    train_set, val_set = sets()
    val_loader = DataLoader(val_set, batch_size=500)
    for epoch in range(args.start_epoch, args.epochs):
        generator = torch.Generator().manual_seed(args.seed + epoch)
        train_loader = DataLoader(
            train_set, batch_size=args.batch_size, shuffle=True, generator=generator
        )
        train(train_loader, model, criterion, optimizer)
        accuracy = validate(val_loader, model, criterion)
        scheduler.step()

        is_best = accuracy > best_accuracy
        best_accuracy = max(accuracy, best_accuracy)
        save_checkpoint(
            {
                "epoch": epoch + 1,
                "state_dict": model.state_dict(),
                "best_accuracy": best_accuracy,
                "optimizer": optimizer.state_dict(),
                "scheduler": scheduler.state_dict(),
            },
            is_best,
            args.folder,
        )


if __name__ == "__main__":
    main()
