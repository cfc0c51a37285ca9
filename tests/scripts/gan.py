"""A generator and a critic, each with an optimizer: points on a circle are learned."""

import argparse
import math

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

NOISE = 4


def circle(size):
    angle = 2 * math.pi * torch.rand(size)
    return torch.stack([angle.cos(), angle.sin()], dim=1)


def net(inputs, outputs):
    return nn.Sequential(
        nn.Linear(inputs, 32), nn.LeakyReLU(0.2), nn.Linear(32, outputs)
    )


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--lr", type=float, default=5e-3)
    parser.add_argument("--beta1", type=float, default=0.5)
    args = parser.parse_args()

    torch.manual_seed(19)
    train_set = TensorDataset(circle(1024))
    train_loader = DataLoader(train_set, batch_size=64, shuffle=True)

    net_g, net_d = net(NOISE, 2), net(2, 1)
    criterion = nn.BCEWithLogitsLoss()
    optimizer_d = torch.optim.Adam(
        net_d.parameters(), lr=args.lr, betas=(args.beta1, 0.999)
    )
    optimizer_g = torch.optim.Adam(
        net_g.parameters(), lr=args.lr, betas=(args.beta1, 0.999)
    )

    for epoch in range(args.epochs):
        for (real,) in train_loader:
            ones, zeros = torch.ones(len(real), 1), torch.zeros(len(real), 1)
            fake = net_g(torch.randn(len(real), NOISE))

            optimizer_d.zero_grad()
            loss_d = criterion(net_d(real), ones)
            loss_d = loss_d + criterion(net_d(fake.detach()), zeros)
            loss_d.backward()
            optimizer_d.step()

            optimizer_g.zero_grad()
            loss_g = criterion(net_d(fake), ones)
            loss_g.backward()
            optimizer_g.step()
        with torch.no_grad():
            points = net_g(torch.randn(2000, NOISE))
            off = (points.norm(dim=1) - 1).abs().mean().item()
        print(
            f"epoch {epoch}: critic {loss_d.item():.4f} generator {loss_g.item():.4f} "
            f"loss {off:.4f} accuracy {1 - off:.4f}"
        )


if __name__ == "__main__":
    main()
