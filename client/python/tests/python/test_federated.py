"""The helper for training programs, and the example with torch, by the agent's file contract."""

import json
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest

from headwater import federated

EXAMPLE = pathlib.Path(__file__).parents[2] / "examples/train_federated.py"


def write_task(folder, kind="train", datasets=()):
    folder.mkdir(exist_ok=True)
    (folder / "state").mkdir(exist_ok=True)
    told = {"run": "digits-1", "round": 2, "kind": kind, "model": str(folder / "model.safetensors"), "model_number": 2}
    told |= {"config": {"learning-rate": 0.05}, "datasets": list(datasets), "state": str(folder / "state"), "seconds": 60}
    (folder / "task.json").write_text(json.dumps(told))
    return folder


def test_files_come_back_as_they_were(tmp_path):
    tensors = {"w": np.arange(6, dtype=np.float32).reshape(2, 3), "n": np.array(7), "half": np.array([0.5], dtype=np.float16)}
    federated.save(tmp_path / "x", tensors, {"a": "b"})
    back = federated.load(tmp_path / "x")
    assert sorted(back) == sorted(tensors)
    for name, value in tensors.items():
        assert back[name].dtype == value.dtype and back[name].shape == value.shape and (back[name] == value).all()
    for bad in (b"", b"x" * 7, (1 << 60).to_bytes(8, "little")):
        (tmp_path / "bad").write_bytes(bad)
        with pytest.raises(ValueError, match="no safetensors file"):
            federated.load(tmp_path / "bad")
    with pytest.raises(TypeError, match="complex"):
        federated.save(tmp_path / "x", {"z": np.array([1j])})


def test_a_task_is_read_and_answered(tmp_path, monkeypatch, capsys):
    monkeypatch.delenv("HEADWATER_TASK", raising=False)
    with pytest.raises(RuntimeError, match="HEADWATER_TASK"):
        federated.task()
    folder = write_task(tmp_path / "task", datasets=[{"name": "a", "folder": str(tmp_path), "samples": 3}])
    federated.save(folder / "model.safetensors", {"w": np.ones(4, dtype=np.float32)})
    monkeypatch.setenv("HEADWATER_TASK", str(folder))
    task = federated.task()
    assert (task.run, task.round, task.config["learning-rate"], task.datasets[0].samples) == ("digits-1", 2, 0.05, 3)
    task.progress(1, 5, loss=0.5)
    assert json.loads(capsys.readouterr().out) == {"step": 1, "steps": 5, "loss": 0.5}
    with pytest.raises(ValueError, match="trained tensors"):
        task.submit(samples=3)
    task.submit({"w": task.weights()["w"] * 2}, samples=3, metrics={"loss": 0.25})
    assert (federated.load(folder / "update.safetensors")["w"] == 2).all()
    assert json.loads((folder / "metrics.json").read_text()) == {"loss": 0.25, "samples": 3}
    judging = federated.task(write_task(tmp_path / "judge", "evaluate"))
    with pytest.raises(ValueError, match="metrics alone"):
        judging.submit({"w": np.zeros(1)})


def test_the_example_learns(tmp_path):
    random = np.random.default_rng(1)
    labels = random.integers(0, 10, 600)
    images = random.integers(0, 40, (600, 16, 16)).astype(np.uint8)
    for image, label in zip(images, labels, strict=True):
        image[label : label + 6, :] += 200
    np.save(tmp_path / "images.npy", images)
    np.save(tmp_path / "labels.npy", labels)
    model = tmp_path / "model.safetensors"
    subprocess.run([sys.executable, EXAMPLE, "init", model], check=True)
    accuracy = []
    for kind in ("evaluate", "train", "train", "train", "train", "train", "evaluate"):
        folder = write_task(tmp_path / "task", kind, [{"name": "a", "folder": str(tmp_path), "samples": 600}])
        (folder / "model.safetensors").write_bytes(model.read_bytes())
        subprocess.run([sys.executable, EXAMPLE], check=True, env={**os.environ, "HEADWATER_TASK": str(folder)})
        accuracy.append(json.loads((folder / "metrics.json").read_text())["accuracy"])
        if kind == "train":
            model.write_bytes((folder / "update.safetensors").read_bytes())
    assert accuracy[-1] > accuracy[0] + 0.3, accuracy
