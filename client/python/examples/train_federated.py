"""A training program for `edge-agent` in torch: a small convolutional network on images in `.npy` files.

A dataset's folder has `images.npy` (uint8, n x height x width) and `labels.npy` (n). One of ten images is never learnt from, but judged
with. In `agent.toml`:

    [training]
    command = ["python3", "/opt/train_federated.py"]
    datasets = ["pictures"]

`train_federated.py init model.safetensors` writes a model that knows nothing, for `core-node model publish`.
"""

import sys

import numpy as np
import torch
from headwater import federated
from torch import nn

CLASSES = 10


def network():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.Conv2d(8, 16, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(4),
        nn.Flatten(),
        nn.Linear(16 * 16, CLASSES),
    )


def data(task):
    images = np.concatenate([np.load(each.folder / "images.npy") for each in task.datasets])
    labels = np.concatenate([np.load(each.folder / "labels.npy") for each in task.datasets])
    images = torch.from_numpy(images).float().unsqueeze(1) / 255
    labels = torch.from_numpy(labels).long()
    unknown = torch.arange(len(labels)) % 10 == 9
    return images[~unknown], labels[~unknown], images[unknown], labels[unknown]


def main():
    if sys.argv[1:2] == ["init"]:
        federated.save(sys.argv[2], network().state_dict())
        return
    task = federated.task()
    model = network()
    model.load_state_dict({name: torch.from_numpy(value) for name, value in task.weights().items()})
    images, labels, unknown, answers = data(task)
    if not task.is_evaluation:
        optimiser = torch.optim.SGD(model.parameters(), lr=task.config.get("learning-rate", 0.1), momentum=0.9)
        batches = torch.randperm(len(labels), generator=torch.Generator().manual_seed(task.round)).split(32)
        for step, batch in enumerate(batches, 1):
            optimiser.zero_grad()
            nn.functional.cross_entropy(model(images[batch]), labels[batch]).backward()
            optimiser.step()
            task.progress(step, len(batches))
    with torch.no_grad():
        accuracy = (model(unknown).argmax(1) == answers).float().mean().item()
    used = answers if task.is_evaluation else labels
    weights = None if task.is_evaluation else model.state_dict()
    task.submit(weights, samples=len(used), metrics={"accuracy": accuracy})


if __name__ == "__main__":
    main()
