"""Super-convergence: SGD with momentum and a one-cycle schedule."""

import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import nn
from torch.optim.lr_scheduler import OneCycleLR


def batches(x, y, size):
    order = torch.randperm(len(x))
    for start in range(0, len(x), size):
        chosen = order[start : start + size]
        yield x[chosen], y[chosen]


def main(epochs=4, batch_size=100, max_lr=0.3):
    torch.manual_seed(2)
    features, labels = load_digits(return_X_y=True)
    split = train_test_split(features / 16, labels, test_size=0.2, random_state=0)
    x_train, x_val = (torch.tensor(part, dtype=torch.float32) for part in split[:2])
    y_train, y_val = (torch.tensor(part) for part in split[2:])

    model = nn.Sequential(
        nn.Linear(64, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Linear(32, 10)
    )
    steps = epochs * -(-len(x_train) // batch_size)
    groups = [
        {"params": model[:3].parameters(), "weight_decay": 1e-4},
        {"params": model[3].parameters(), "weight_decay": 0.0},
    ]
    optimizer = torch.optim.SGD(groups, lr=max_lr, momentum=0.9, nesterov=True)
    scheduler = OneCycleLR(optimizer, max_lr=max_lr, total_steps=steps)

    for epoch in range(epochs):
        model.train()
        running = 0.0
        for x, y in batches(x_train, y_train, batch_size):
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(model(x), y)
            loss.backward()
            optimizer.step()
            scheduler.step()
            running += loss.item() * len(x)
        model.eval()
        with torch.no_grad():
            accuracy = (model(x_val).argmax(1) == y_val).float().mean().item()
        rate = scheduler.get_last_lr()[0]
        print(
            f"epoch={epoch} lr={rate:.4f} loss={running / len(x_train):.4f} "
            f"accuracy={accuracy:.3f}"
        )


if __name__ == "__main__":
    main()
