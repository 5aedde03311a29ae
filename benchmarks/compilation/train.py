"""Train a small model on the digits inside a framework's own environment.

`python train.py pytorch|sklearn|xgboost DATA.npz MODEL`; a thousand images train it.
"""

import sys

import numpy as np

TRAINED = 1000


def pytorch(images: np.ndarray, labels: np.ndarray, path: str) -> None:
    import torch

    torch.manual_seed(0)
    net = torch.nn.Sequential(
        torch.nn.Conv2d(1, 32, 3, padding=1), torch.nn.BatchNorm2d(32), torch.nn.ReLU(),
        torch.nn.Conv2d(32, 64, 3, stride=2, padding=1), torch.nn.BatchNorm2d(64), torch.nn.ReLU(),
        torch.nn.Conv2d(64, 128, 3, stride=2, padding=1), torch.nn.BatchNorm2d(128),
        torch.nn.ReLU(), torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(),
        torch.nn.Linear(128, 10),
    )  # fmt: skip
    shown = torch.from_numpy(images[:TRAINED].reshape(-1, 1, 8, 8))
    shown = shown.repeat_interleave(4, 2).repeat_interleave(4, 3)
    wanted = torch.from_numpy(labels[:TRAINED])
    optimiser = torch.optim.Adam(net.parameters(), 3e-3)
    for _ in range(6):
        for part in torch.randperm(TRAINED).split(50):
            optimiser.zero_grad()
            torch.nn.functional.cross_entropy(net(shown[part]), wanted[part]).backward()
            optimiser.step()
    torch.jit.save(torch.jit.trace(net.eval(), shown[:2]), path)


def sklearn(images: np.ndarray, labels: np.ndarray, path: str) -> None:
    import skops.io
    from sklearn.ensemble import RandomForestClassifier

    forest = RandomForestClassifier(100, random_state=0).fit(images[:TRAINED], labels[:TRAINED])
    skops.io.dump(forest, path)


def xgboost(images: np.ndarray, labels: np.ndarray, path: str) -> None:
    import xgboost as xgb

    parameters = {"objective": "multi:softprob", "num_class": 10, "max_depth": 6}
    xgb.train(parameters, xgb.DMatrix(images[:TRAINED], labels[:TRAINED]), 50).save_model(path)


if __name__ == "__main__":
    kind, data, target = sys.argv[1:]
    with np.load(data) as file:
        globals()[kind](file["images"], file["labels"], target)
