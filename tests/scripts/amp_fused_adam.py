"""Mixed precision on the CPU: autocast, a gradient scaler, and the fused Adam."""

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

DTYPE = torch.bfloat16
CLIP_NORM = 1.0


def main():
    torch.manual_seed(0)
    digits = load_digits()
    data = torch.tensor(digits.data, dtype=torch.float32) / 16
    loader = DataLoader(
        TensorDataset(data, torch.tensor(digits.target)), batch_size=128, shuffle=True
    )

    net = nn.Sequential(
        nn.Linear(64, 48), nn.GELU(), nn.LayerNorm(48), nn.Linear(48, 10)
    )
    loss_fn = nn.CrossEntropyLoss()
    optimizer = torch.optim.Adam(net.parameters(), lr=3e-3, fused=True)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**12)

    for epoch in range(3):
        total = 0.0
        for inputs, targets in loader:
            with torch.autocast(device_type="cpu", dtype=DTYPE):
                outputs = net(inputs)
                loss = loss_fn(outputs, targets)
            scaler.scale(loss).backward()
            scaler.unscale_(optimizer)
            torch.nn.utils.clip_grad_norm_(net.parameters(), CLIP_NORM)
            scaler.step(optimizer)
            scaler.update()
            optimizer.zero_grad(set_to_none=True)
            total += loss.item()
        print(
            f"epoch {epoch}: loss {total / len(loader):.4f} scale {scaler.get_scale()}"
        )


if __name__ == "__main__":
    main()
