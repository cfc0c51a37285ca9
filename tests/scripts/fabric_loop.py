"""A loop by Lightning Fabric: the model and its optimizer are set up, then trained."""

import argparse

import torch
from lightning.fabric import Fabric, seed_everything
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader, TensorDataset


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--precision", default="32-true")
    args = parser.parse_args()

    fabric = Fabric(accelerator="cpu", devices=1, precision=args.precision)
    fabric.launch()
    seed_everything(5, verbose=False)

    data, target = load_digits(return_X_y=True)
    data = torch.tensor(data, dtype=torch.float32) / 16
    target = torch.tensor(target)
    train_set = TensorDataset(data[:1500], target[:1500])
    train_loader = DataLoader(train_set, batch_size=50, shuffle=True)
    test_loader = DataLoader(TensorDataset(data[1500:], target[1500:]), batch_size=300)

    model = nn.Sequential(nn.Linear(64, 48), nn.Tanh(), nn.Linear(48, 10))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.2, momentum=0.9)
    model, optimizer = fabric.setup(model, optimizer)
    train_loader, test_loader = fabric.setup_dataloaders(train_loader, test_loader)

    for epoch in range(args.epochs):
        model.train()
        for inputs, labels in train_loader:
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(model(inputs), labels)
            fabric.backward(loss)
            fabric.clip_gradients(model, optimizer, max_norm=1.0)
            optimizer.step()
        model.eval()
        with torch.no_grad():
            ((inputs, labels),) = test_loader
            outputs = model(inputs)
            loss = nn.functional.cross_entropy(outputs, labels).item()
            accuracy = (outputs.argmax(1) == labels).float().mean().item()
        fabric.print(f"epoch {epoch}: loss {loss:.4f} accuracy {accuracy:.4f}")


if __name__ == "__main__":
    main()
