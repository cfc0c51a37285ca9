"""Handwritten digits: a convolutional network, Adadelta and a falling learning rate."""

import argparse

import torch
import torch.nn.functional as F  # noqa: N812
from torch import nn, optim
from torch.optim.lr_scheduler import StepLR
from torch.utils.data import DataLoader, Subset, TensorDataset


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(1, 32, 3), nn.ReLU(), nn.Conv2d(32, 64, 3), nn.ReLU()
        )
        self.drop_maps = nn.Dropout2d(0.25)
        self.drop_units = nn.Dropout(0.5)
        self.hidden = nn.Linear(64 * 12 * 12, 128)
        self.classes = nn.Linear(128, 10)

    def forward(self, x):
        x = F.max_pool2d(self.features(x), 2)
        x = torch.flatten(self.drop_maps(x), 1)
        x = self.drop_units(F.relu(self.hidden(x)))
        return F.log_softmax(self.classes(x), dim=1)


def load(folder):
    """MNIST's images, or, without a folder, those that come with scikit-learn."""
    if folder:
        from torchvision import datasets, transforms

        transform = transforms.Compose(
            [transforms.ToTensor(), transforms.Normalize((0.1307,), (0.3081,))]
        )
        return (
            datasets.MNIST(folder, train=True, download=True, transform=transform),
            datasets.MNIST(folder, train=False, transform=transform),
        )
    from sklearn.datasets import load_digits

    digits = load_digits()
    images = torch.tensor(digits.images, dtype=torch.float32).unsqueeze(1)
    images = F.interpolate(images / 8 - 1, size=28, mode="bilinear")
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
    whole = TensorDataset(images, torch.tensor(digits.target))
    return Subset(whole, order[:1500].tolist()), Subset(whole, order[1500:].tolist())


def train(args, model, device, train_loader, optimizer, epoch):
    model.train()
    for batch_idx, (data, target) in enumerate(train_loader):
        data, target = data.to(device), target.to(device)
        optimizer.zero_grad()
        output = model(data)
        loss = F.nll_loss(output, target)
        loss.backward()
        optimizer.step()
        if batch_idx % args.log_interval == 0:
            print(f"Train Epoch: {epoch} [{batch_idx}]\tLoss: {loss.item():.6f}")


def test(model, device, test_loader):
    model.eval()
    test_loss = 0
    correct = 0
    with torch.no_grad():
        for data, target in test_loader:
            data, target = data.to(device), target.to(device)
            output = model(data)
            test_loss += F.nll_loss(output, target, reduction="sum").item()
            correct += output.argmax(dim=1).eq(target).sum().item()
    count = len(test_loader.dataset)
    print(f"Test set: Loss: {test_loss / count:.4f}, Accuracy: {correct / count:.4f}")


def main():
    parser = argparse.ArgumentParser(description="MNIST example")
    parser.add_argument("--data", help="folder with MNIST, or where to download it")
    parser.add_argument("--limit", type=int, help="take so many images only")
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--epochs", type=int, default=14)
    parser.add_argument("--lr", type=float, default=1.0)
    parser.add_argument("--gamma", type=float, default=0.7)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--log-interval", type=int, default=10)
    args = parser.parse_args()

    torch.manual_seed(args.seed)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")

    train_set, test_set = load(args.data)
    if args.limit:
        train_set = Subset(train_set, range(args.limit))
        test_set = Subset(test_set, range(min(args.limit, len(test_set))))
    train_loader = DataLoader(train_set, batch_size=args.batch_size, shuffle=True)
    test_loader = DataLoader(test_set, batch_size=1000)

    model = Net().to(device)
    optimizer = optim.Adadelta(model.parameters(), lr=args.lr)
    scheduler = StepLR(optimizer, step_size=1, gamma=args.gamma)
    for epoch in range(1, args.epochs + 1):
        train(args, model, device, train_loader, optimizer, epoch)
        test(model, device, test_loader)
        scheduler.step()


if __name__ == "__main__":
    main()
