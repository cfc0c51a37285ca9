"""A module of Lightning behind its command line: `lightning_cli.py fit --trainer...`"""

import lightning.pytorch as pl
import torch
from lightning.pytorch.cli import LightningCLI
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader, TensorDataset


class Digits(pl.LightningDataModule):
    def __init__(self, batch_size: int = 50):
        super().__init__()
        self.batch_size = batch_size

    def setup(self, stage):
        data, target = load_digits(return_X_y=True)
        data = torch.tensor(data, dtype=torch.float32) / 16
        target = torch.tensor(target)
        self.train_set = TensorDataset(data[:1500], target[:1500])
        self.val_set = TensorDataset(data[1500:], target[1500:])

    def train_dataloader(self):
        train_set = self.train_set
        return DataLoader(train_set, batch_size=self.batch_size, shuffle=True)

    def val_dataloader(self):
        return DataLoader(self.val_set, batch_size=300)


class Classifier(pl.LightningModule):
    def __init__(self, hidden: int = 48, lr: float = 5e-3):
        super().__init__()
        self.lr = lr
        self.net = nn.Sequential(
            nn.Linear(64, hidden), nn.ReLU(), nn.Linear(hidden, 10)
        )

    def training_step(self, batch, batch_idx):
        inputs, labels = batch
        return nn.functional.cross_entropy(self.net(inputs), labels)

    def validation_step(self, batch, batch_idx):
        inputs, labels = batch
        outputs = self.net(inputs)
        loss = nn.functional.cross_entropy(outputs, labels)
        accuracy = (outputs.argmax(1) == labels).float().mean()
        print(f"loss {loss.item():.4f} accuracy {accuracy.item():.4f}")

    def configure_optimizers(self):
        optimizer = torch.optim.Adam(self.parameters(), lr=self.lr)
        scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, gamma=0.8)
        return [optimizer], [scheduler]


def main():
    LightningCLI(
        Classifier,
        Digits,
        seed_everything_default=1,
        save_config_callback=None,
        trainer_defaults={
            "max_epochs": 3,
            "accelerator": "cpu",
            "logger": False,
            "enable_checkpointing": False,
            "enable_progress_bar": False,
            "enable_model_summary": False,
            "num_sanity_val_steps": 0,
            "callbacks": [],
        },
    )


if __name__ == "__main__":
    main()
