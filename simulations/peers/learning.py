"""Learning curves: devices that train on Fashion-MNIST, some of them hostile, beside flwr with the same model, seeds and split.

`prepare` deals images to devices, alike or by a Dirichlet distribution; without an argument it is the training program of a device
(see docs/federated/programs.md); `init` writes the model to begin with; `judge` says how well models do on the test images, beside
flwr's strategies over the very same training in this process; `plot` draws what it said.

The model is a perceptron with one hidden layer, in numpy. A device that attacks sends noise, or the opposite of what it has learnt.
"""

import argparse
import gzip
import json
import os
import pathlib
import sys

for threads in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ.setdefault(threads, "1")

import numpy as np

from federated import read, replies, write

PIXELS, HIDDEN, CLASSES = 784, 64, 10
BATCH = 32
RATE = 0.1
# Of ten devices two attack: the last.
HONEST = 8
# How far a device's noise is from the model, and how much stronger than what it learnt is what it sends instead.
NOISE, FLIP = 1.0, 4.0


def init():
    random = np.random.default_rng(0)
    layer = lambda inputs, outputs: random.uniform(-1, 1, (inputs, outputs)).astype("<f4") * np.float32((6 / inputs) ** 0.5)
    return {
        "first.bias": np.zeros(HIDDEN, "<f4"),
        "first.weight": layer(PIXELS, HIDDEN),
        "second.bias": np.zeros(CLASSES, "<f4"),
        "second.weight": layer(HIDDEN, CLASSES),
    }


def forward(model, images):
    hidden = np.maximum(images @ model["first.weight"] + model["first.bias"], 0)
    return hidden, hidden @ model["second.weight"] + model["second.bias"]


def accuracy(model, images, labels):
    return float((forward(model, images)[1].argmax(axis=1) == labels).mean())


def learn(base, images, labels, order):
    """One epoch of stochastic gradient descent."""
    model = {name: value.copy() for name, value in base.items()}
    shuffled = np.random.default_rng(order).permutation(len(labels))
    for begin in range(0, len(labels), BATCH):
        batch = shuffled[begin : begin + BATCH]
        inputs = images[batch]
        hidden, scores = forward(model, inputs)
        errors = np.exp(scores - scores.max(axis=1, keepdims=True))
        errors /= errors.sum(axis=1, keepdims=True)
        errors[np.arange(len(batch)), labels[batch]] -= 1
        errors *= np.float32(RATE / len(batch))
        back = (errors @ model["second.weight"].T) * (hidden > 0)
        model["second.weight"] -= hidden.T @ errors
        model["second.bias"] -= errors.sum(axis=0)
        model["first.weight"] -= inputs.T @ back
        model["first.bias"] -= back.sum(axis=0)
    return model


def update(base, number, images, labels, round_, attack):
    """What a device sends."""
    if number < HONEST or attack == "none":
        return learn(base, images, labels, [round_, number])
    random = np.random.default_rng([7, round_, number])
    if attack == "noise":
        return {name: value + random.normal(0, NOISE, value.shape).astype("<f4") for name, value in base.items()}
    learnt = learn(base, images, labels, [round_, number])
    return {name: value - np.float32(FLIP) * (learnt[name] - value) for name, value in base.items()}


def load(folder):
    images = np.load(folder / "images.npy").astype("<f4") / np.float32(255)
    return images, np.load(folder / "labels.npy")


def idx(path, header):
    with gzip.open(path) as file:
        return np.frombuffer(file.read(), np.uint8, offset=header)


def prepare(arguments):
    source = pathlib.Path(arguments.source)
    pair = lambda name: (
        idx(source / f"{name}-images-idx3-ubyte.gz", 16).reshape(-1, PIXELS),
        idx(source / f"{name}-labels-idx1-ubyte.gz", 8),
    )
    images, labels = pair("train")
    random = np.random.default_rng(arguments.seed)
    picked = random.permutation(len(labels))[: arguments.devices * arguments.images]
    if arguments.split == "iid":
        parts = np.array_split(picked, arguments.devices)
    else:
        parts = [[] for _ in range(arguments.devices)]
        for label in range(CLASSES):
            of = picked[labels[picked] == label]
            shares = random.dirichlet([0.5] * arguments.devices)
            for part, piece in zip(parts, np.split(of, (np.cumsum(shares)[:-1] * len(of)).astype(int))):
                part.extend(piece)
    out = pathlib.Path(arguments.out)
    folders = [out / str(number) for number in range(arguments.devices)]
    for number, (folder, part) in enumerate(zip(folders, parts)):
        # A device with nothing to learn from would take no part.
        part = np.asarray(part if len(part) else picked[:1], int)
        save(folder, images[part], labels[part])
        (folder / "number").write_text(str(number))
    save(out / "test", *pair("t10k"))
    return {"samples": [len(part) for part in parts]}


def save(folder, images, labels):
    folder.mkdir(parents=True, exist_ok=True)
    np.save(folder / "images.npy", images)
    np.save(folder / "labels.npy", labels)


def train():
    place = pathlib.Path(os.environ["HEADWATER_TASK"])
    task = json.loads((place / "task.json").read_text())
    folder = next(pathlib.Path(each["folder"]) for each in task["datasets"] if each["name"] == task["config"]["split"])
    images, labels = load(folder)
    number = int((folder / "number").read_text())
    new = update(read(task["model"]), number, images, labels, task["round"], task["config"]["attack"])
    write(place / "update.safetensors", new)
    (place / "metrics.json").write_text(json.dumps({"samples": len(labels)}))


def flwr_rounds(arguments, data):
    """The models after each round, by one of flwr's strategies."""
    from flwr.serverapp import strategy as flwr

    made = {
        "fedavg": lambda: flwr.FedAvg(),
        "median": lambda: flwr.FedMedian(),
        "trimmed-mean": lambda: flwr.FedTrimmedAvg(beta=0.2),
        "multi-krum": lambda: flwr.MultiKrum(num_malicious_nodes=2, num_nodes_to_select=8),
    }[arguments.strategy]()
    model = init()
    for round_ in range(1, arguments.rounds + 1):
        sent = [update(model, number, *part, round_, arguments.attack) for number, part in enumerate(data)]
        arrays, _ = made.aggregate_train(round_, replies(sent, [len(labels) for _, labels in data]))
        model = {name: value.numpy().astype("<f4") for name, value in arrays.items()}
        yield model


def judge(arguments):
    folder = pathlib.Path(arguments.data)
    data = [load(folder / str(number)) for number in range(arguments.devices)]
    test = load(folder / "test")
    return {
        "ours": [accuracy(read(path), *test) for path in arguments.models],
        "flwr": [accuracy(model, *test) for model in flwr_rounds(arguments, data)],
    }


def plot(arguments):
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams["svg.hashsalt"] = "headwater"
    from matplotlib import pyplot

    curves = json.loads(pathlib.Path(arguments.curves).read_text())
    groups = list(dict.fromkeys(curve["group"] for curve in curves))
    figure, places = pyplot.subplots(1, len(groups), figsize=(3.6 * len(groups), 3.8), sharey=True, squeeze=False,
                                    layout="constrained")
    for place, group in zip(places[0], groups):
        for color, curve in enumerate(curve for curve in curves if curve["group"] == group):
            rounds = range(1, len(curve["ours"]) + 1)
            place.plot(rounds, curve["ours"], f"C{color}-", label=curve["strategy"])
            place.plot(rounds, curve["flwr"], f"C{color}o", markerfacecolor="none", markersize=5)
        place.set(title=group, xlabel="round")
    places[0][0].set_ylabel("right on the test images")
    figure.suptitle("Headwater (lines) and flwr (circles): the same model, seeds and data")
    figure.legend(*places[0][-1].get_legend_handles_labels(), loc="outside lower center", ncols=4)
    figure.savefig(arguments.out, metadata={"Date": None})
    return {}


def main():
    if len(sys.argv) == 1:
        return train()
    parser = argparse.ArgumentParser(description=__doc__)
    commands = parser.add_subparsers(required=True)
    dealt = commands.add_parser("prepare")
    dealt.add_argument("--source", required=True)
    dealt.add_argument("--out", required=True)
    dealt.add_argument("--devices", type=int, default=10)
    dealt.add_argument("--images", type=int, default=1000)
    dealt.add_argument("--split", choices=["iid", "dirichlet"], required=True)
    dealt.add_argument("--seed", type=int, default=0)
    dealt.set_defaults(run=prepare)
    begun = commands.add_parser("init")
    begun.add_argument("file")
    begun.set_defaults(run=lambda arguments: write(arguments.file, init()) or {})
    judged = commands.add_parser("judge")
    judged.add_argument("--data", required=True)
    judged.add_argument("--devices", type=int, default=10)
    judged.add_argument("--rounds", type=int, required=True)
    judged.add_argument("--strategy", required=True)
    judged.add_argument("--attack", default="none")
    judged.add_argument("models", nargs="+")
    judged.set_defaults(run=judge)
    drawn = commands.add_parser("plot")
    drawn.add_argument("--out", required=True)
    drawn.add_argument("curves")
    drawn.set_defaults(run=plot)
    arguments = parser.parse_args()
    print(json.dumps(arguments.run(arguments)))


if __name__ == "__main__":
    main()
