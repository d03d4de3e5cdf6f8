"""What federated aggregation is held against: flwr's strategies and numpy's statistics, on the same files.

`speed` times a baseline from update files to the new model; `check` runs `core-node model aggregate` on random models and compares
its results with what nobody here wrote. Prints one JSON document.

Where flwr differs from the papers, the papers are followed here: its FedAdam corrects the bias of both moments (Kingma & Ba) and
begins with a variance of 0, where Reddi et al. 2021 do neither and begin with tau squared; its Krum and MultiKrum weigh what they keep
by samples, which whoever attacks claims as he likes.
"""

import argparse
import json
import pathlib
import struct
import subprocess
import tempfile
import time

import numpy as np


def write(path, tensors, metadata=None):
    header, offset = {}, 0
    if metadata:
        header["__metadata__"] = metadata
    for name in sorted(tensors):
        value = tensors[name]
        header[name] = {"dtype": "F32", "shape": list(value.shape), "data_offsets": [offset, offset + value.nbytes]}
        offset += value.nbytes
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for name in sorted(tensors):
            file.write(np.ascontiguousarray(tensors[name], dtype="<f4").tobytes())


def read(path):
    with open(path, "rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        header = json.loads(file.read(length))
        header.pop("__metadata__", None)
        data = np.fromfile(file, dtype=np.uint8)
    return {
        name: data[slice(*entry["data_offsets"])].view("<f4").reshape(entry["shape"]) for name, entry in header.items()
    }


def replies(updates, samples):
    """Messages as flwr's strategies take them."""
    from flwr.app import ArrayRecord, Array, Message, MetricRecord, RecordDict
    from flwr.supercore.task_identity import TaskIdentity

    TaskIdentity.run_id = TaskIdentity.task_id = TaskIdentity.node_id = 1
    messages = []
    for node, (tensors, count) in enumerate(zip(updates, samples)):
        arrays = ArrayRecord({name: Array(np.asarray(value)) for name, value in tensors.items()})
        content = RecordDict({"arrays": arrays, "metrics": MetricRecord({"num-examples": count})})
        question = Message(content=RecordDict(), dst_node_id=node, message_type="train")
        question.metadata.__dict__["_message_id"] = str(node)
        messages.append(Message(content=content, reply_to=question))
    return messages


def speed(arguments):
    begin = time.perf_counter()
    updates = [read(path) for path in arguments.updates]
    if arguments.baseline == "numpy-median":
        new = {name: np.median(np.stack([update[name] for update in updates]), axis=0) for name in updates[0]}
    else:
        from flwr.serverapp.strategy import FedAvg

        arrays, _ = FedAvg().aggregate_train(1, replies(updates, [1] * len(updates)))
        new = {name: value.numpy() for name, value in arrays.items()}
    write(arguments.out, {name: value.astype("<f4") for name, value in new.items()})
    return {"seconds": time.perf_counter() - begin, "updates": len(updates)}


class Rounds:
    """Random models and updates, and what `core-node model aggregate` makes of them."""

    def __init__(self, core, folder, seed):
        self.core, self.folder = core, pathlib.Path(folder)
        random = np.random.default_rng(seed)
        shapes = {"a.weight": (37, 11), "b": (5,), "c": (1, 2, 3), "scalar": ()}
        draw = lambda scale: {name: np.float32(random.normal(0, scale, shape)) for name, shape in shapes.items()}
        self.base = {name: np.asarray(value, dtype="<f4") for name, value in draw(1.0).items()}
        self.deltas = [{name: np.asarray(v, dtype="<f4") for name, v in draw(0.1).items()} for _ in range(9)]
        self.samples = [int(count) for count in random.integers(1, 500, 9)]
        write(self.folder / "base", self.base)
        for index, delta in enumerate(self.deltas):
            write(self.folder / f"update-{index}", delta, {"headwater.encoding": "full"})

    def ours(self, strategy, rounds=1):
        base, state = self.folder / "base", None
        for number in range(rounds):
            new, kept = self.folder / f"new-{number}", self.folder / f"kept-{number}"
            command = [self.core, "model", "aggregate", "--base", base, "--strategy", strategy, "--out", new]
            command += ["--state-out", kept] + (["--state", state] if state else [])
            for index, count in enumerate(self.samples):
                command += ["--update", f"{self.folder}/update-{index}={count}"]
            subprocess.run([str(word) for word in command], check=True, stdout=subprocess.DEVNULL)
            base, state = new, kept if kept.exists() else None
        return read(base)

    def weights(self):
        return [{name: self.base[name] + delta[name] for name in self.base} for delta in self.deltas]

    def stacked(self, name):
        return np.stack([delta[name].astype(np.float64) for delta in self.deltas])

    def mean(self, name):
        return np.average(self.stacked(name), axis=0, weights=self.samples)


def same(found, expected, what, tolerance=2e-6):
    for name, value in expected.items():
        error = float(np.max(np.abs(found[name] - value), initial=0.0))
        assert error <= tolerance, f"{what}: tensor {name} differs by {error}"


def check_numpy(rounds):
    """Formulas of the papers, in numpy's f64."""
    base = {name: value.astype(np.float64) for name, value in rounds.base.items()}
    of = lambda combine: {name: base[name] + combine(name) for name in base}
    same(rounds.ours("fedavg"), of(rounds.mean), "fedavg")
    same(rounds.ours("median"), of(lambda name: np.median(rounds.stacked(name), axis=0)), "median")

    def trimmed(name):
        return np.mean(np.sort(rounds.stacked(name), axis=0)[1:-1], axis=0)

    same(rounds.ours("trimmed-mean:beta=0.2"), of(trimmed), "trimmed-mean")
    flat = np.stack([np.concatenate([delta[name].ravel() for name in sorted(delta)]) for delta in rounds.deltas])
    distances = ((flat[:, None, :].astype(np.float64) - flat[None, :, :]) ** 2).sum(axis=2)
    scores = [np.sort(np.delete(row, index))[: 9 - 2 - 2].sum() for index, row in enumerate(distances)]
    best = int(np.argmin(scores))
    same(rounds.ours("krum:byzantine=2"), of(lambda name: rounds.deltas[best][name]), "krum")
    kept = np.argsort(scores)[:7]
    same(rounds.ours("multi-krum:byzantine=2"), of(lambda name: rounds.stacked(name)[kept].mean(axis=0)), "multi-krum")
    norms = np.linalg.norm(flat.astype(np.float64), axis=1)
    factors = np.minimum(1.0, 1.5 / norms)
    clipped = lambda name: np.average(
        np.stack([f * d[name].astype(np.float64) for f, d in zip(factors, rounds.deltas)]), axis=0, weights=rounds.samples
    )
    same(rounds.ours("fedavg:clip=1.5"), of(clipped), "clipping")
    square = {
        "fedadagrad": lambda v, d: v + d * d,
        "fedadam": lambda v, d: 0.99 * v + 0.01 * d * d,
        "fedyogi": lambda v, d: v - 0.01 * d * d * np.sign(v - d * d),
    }
    for name, next_variance in square.items():
        beta, tau, x = (0.0 if name == "fedadagrad" else 0.9), 1e-3, dict(base)
        m, v = {key: 0.0 for key in x}, {key: tau * tau for key in x}
        for _ in range(3):
            for key in x:
                d = rounds.mean(key)
                m[key] = beta * m[key] + (1 - beta) * d
                v[key] = next_variance(v[key], d)
                x[key] = x[key] + 0.1 * m[key] / (np.sqrt(v[key]) + tau)
        same(rounds.ours(name, 3), x, name, 2e-5)
    return ["fedavg", "median", "trimmed-mean", "krum", "multi-krum", "clipping", *square]


def check_flwr(rounds):
    """flwr's own classes on the same arrays."""
    from flwr.app import ArrayRecord, Array
    from flwr.serverapp import strategy as flwr

    def theirs(made, weights=None):
        made.current_arrays = {name: value.astype(np.float64) for name, value in rounds.base.items()}
        arrays, _ = made.aggregate_train(1, replies(weights or rounds.weights(), rounds.samples))
        return {name: value.numpy() for name, value in arrays.items()}

    same(rounds.ours("fedavg"), theirs(flwr.FedAvg()), "flwr FedAvg")
    same(rounds.ours("median"), theirs(flwr.FedMedian()), "flwr FedMedian")
    same(rounds.ours("trimmed-mean:beta=0.2"), theirs(flwr.FedTrimmedAvg(beta=0.2)), "flwr FedTrimmedAvg")
    same(rounds.ours("krum:byzantine=2"), theirs(flwr.Krum(num_malicious_nodes=2)), "flwr Krum")
    # With the variance that the paper begins with: flwr begins with 0, and with tau this small that is the same.
    made = flwr.FedAdagrad(eta=0.1, tau=1e-9)
    same(rounds.ours("fedadagrad:eta=0.1,tau=1e-9"), theirs(made), "flwr FedAdagrad", 2e-5)
    made = flwr.FedYogi(eta=0.1, beta_1=0.9, beta_2=0.99, tau=1e-9)
    same(rounds.ours("fedyogi:eta=0.1,tau=1e-9"), theirs(made), "flwr FedYogi", 2e-5)
    return ["FedAvg", "FedMedian", "FedTrimmedAvg", "Krum", "FedAdagrad", "FedYogi"]


def check(arguments):
    checked = {}
    for seed in range(arguments.seeds):
        with tempfile.TemporaryDirectory() as folder:
            rounds = Rounds(arguments.core, folder, seed)
            checked["numpy"] = check_numpy(rounds)
            if arguments.flwr:
                checked["flwr"] = check_flwr(rounds)
    return {"seeds": arguments.seeds, **checked}


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    commands = parser.add_subparsers(required=True)
    timed = commands.add_parser("speed")
    timed.add_argument("baseline", choices=["flwr-fedavg", "numpy-median"])
    timed.add_argument("--out", required=True)
    timed.add_argument("updates", nargs="+")
    timed.set_defaults(run=speed)
    checked = commands.add_parser("check")
    checked.add_argument("--core", required=True)
    checked.add_argument("--seeds", type=int, default=5)
    checked.add_argument("--flwr", action="store_true")
    checked.set_defaults(run=check)
    arguments = parser.parse_args()
    print(json.dumps(arguments.run(arguments)))


if __name__ == "__main__":
    main()
