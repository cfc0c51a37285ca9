"""Fits two sine waves with a small network and LBFGS, the optimizer with a closure."""

import torch
from torch import nn


def main():
    torch.manual_seed(0)
    x = torch.linspace(-3.0, 3.0, 200).unsqueeze(1)
    y = torch.sin(2 * x) + 0.3 * torch.sin(7 * x)

    model = nn.Sequential(nn.Linear(1, 24), nn.Tanh(), nn.Linear(24, 1))
    criterion = nn.MSELoss()
    optimizer = torch.optim.LBFGS(model.parameters(), lr=0.8, max_iter=10)

    for step in range(8):

        def closure():
            optimizer.zero_grad()
            loss = criterion(model(x), y)
            loss.backward()
            return loss

        loss = optimizer.step(closure)
        print(f"STEP: {step} loss: {loss.item():.6f}")

    with torch.no_grad():
        print(f"final loss: {criterion(model(x), y).item():.6f}")


if __name__ == "__main__":
    main()
