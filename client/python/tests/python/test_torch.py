import multiprocessing
import os
import socket

import pytest
import torch
from conftest import IMAGES, expected

from headwater.torch import BatchSampler, DataLoader, IterableDataset, MapDataset

BATCH = 48


def numbers_and_labels(batch):
    """Small enough to come from workers quickly, and enough to know which samples they were."""
    assert torch.equal(torch.from_numpy(batch["img"])[0], torch.from_numpy(expected(int(batch.numbers[0]), 784)))
    return {"numbers": torch.from_numpy(batch.numbers.copy()), "label": torch.from_numpy(batch["label"][:, 0].copy())}


def one_number(sample):
    return sample.number


def read(loader, batches=None):
    found = []
    for count, batch in enumerate(loader, 1):
        assert (batch["label"] == batch["numbers"] % 10).all()
        found += batch["numbers"].tolist()
        if count == batches:
            break
    return found


def whole(images, epoch=0):
    return [n for batch in images.batches(BATCH, seed=7, epoch=epoch) for n in batch.numbers.tolist()]


def test_tensors_are_views_of_the_buffer(images):
    batch = next(iter(IterableDataset(images, 16, shuffle=False)))
    assert batch["img"].shape == (16, 784) and batch["img"].dtype == torch.uint8
    assert torch.equal(batch["img"][3], torch.from_numpy(expected(3, 784)))
    kept = batch["img"]
    del batch
    list(IterableDataset(images, 64))
    assert torch.equal(kept[3], torch.from_numpy(expected(3, 784)))


@pytest.mark.parametrize("context", [None, "fork", "spawn"])
def test_a_stock_loader_reads_the_epoch_in_order(images, context):
    dataset = IterableDataset(images, BATCH, seed=7, transform=numbers_and_labels)
    workers = {} if context is None else {"num_workers": 2, "multiprocessing_context": context}
    loader = torch.utils.data.DataLoader(dataset, batch_size=None, **workers)
    assert len(loader) == -(-IMAGES // BATCH)
    assert read(loader) == whole(images)
    if context is None:
        assert dataset.state_dict()["epoch"] == 1
        return
    # What the loop received is not known here, so no wrong position is given.
    with pytest.raises(RuntimeError, match="only `headwater.torch.DataLoader` knows"):
        dataset.state_dict()
    dataset.set_epoch(3)
    assert dataset.state_dict()["epoch"] == 3


def test_a_stock_loader_without_workers_resumes_where_the_loop_was(images):
    dataset = IterableDataset(images, BATCH, seed=7, transform=numbers_and_labels)
    loader = torch.utils.data.DataLoader(dataset, batch_size=None)
    first = read(loader, 11)
    state = dataset.state_dict()
    assert state["position"] == 11 * BATCH
    other = IterableDataset(images, BATCH, seed=7, transform=numbers_and_labels)
    other.load_state_dict(state)
    assert first + read(torch.utils.data.DataLoader(other, batch_size=None)) == whole(images)
    assert read(torch.utils.data.DataLoader(other, batch_size=None)) == whole(images, epoch=1)


@pytest.mark.parametrize("context", ["fork", "spawn"])
def test_states_count_what_the_loop_received_and_not_what_workers_read_ahead(images, context):
    def loader(workers):
        dataset = IterableDataset(images, BATCH, seed=7, transform=numbers_and_labels)
        return DataLoader(dataset, num_workers=workers, multiprocessing_context=context, prefetch_factor=4)

    first = loader(3)
    got = read(first, 10)
    state = first.state_dict()
    assert state["position"] == 10 * BATCH
    second = loader(2)
    second.load_state_dict(state)
    assert got + read(second) == whole(images)
    assert second.state_dict()["epoch"] == 1 and second.state_dict()["position"] == 0


def test_workers_that_live_on_read_the_next_epoch(images):
    dataset = IterableDataset(images, BATCH, seed=7, transform=numbers_and_labels)
    loader = DataLoader(dataset, num_workers=2, persistent_workers=True)
    assert read(loader) == whole(images)
    assert read(loader) == whole(images, epoch=1)
    loader.set_epoch(5)
    assert read(loader) == whole(images, epoch=5)


def test_a_map_style_dataset_resumes_too(images):
    def loader():
        sampler = BatchSampler(images, BATCH, seed=7)
        return DataLoader(MapDataset(images, transform=numbers_and_labels), sampler=sampler, num_workers=2)

    first = loader()
    got = read(first, 9)
    second = loader()
    second.load_state_dict(first.state_dict())
    assert got + read(second) == whole(images)
    assert MapDataset(images)[4]["img"].shape == (784,)
    assert MapDataset(images, transform=one_number).__getitems__([4, 9]) == [4, 9]


def test_sample_after_sample(images):
    dataset = IterableDataset(images, BATCH, seed=7, samples=True, transform=one_number)
    assert len(dataset) == IMAGES
    loader = torch.utils.data.DataLoader(dataset, batch_size=BATCH, num_workers=2)
    assert [n for batch in loader for n in batch.tolist()] == whole(images)
    alone = iter(dataset)
    assert [next(alone) for _ in range(50)] == whole(images)[:50]
    assert dataset.state_dict()["position"] == 50


def test_what_can_not_be_resumed_is_refused(images):
    with pytest.raises(TypeError, match="BatchSampler"):
        DataLoader(MapDataset(images))
    with pytest.raises(TypeError, match="`shuffle` is said where the order is"):
        DataLoader(IterableDataset(images, BATCH), shuffle=True)
    dataset = IterableDataset(images, BATCH, seed=7)
    with pytest.raises(ValueError, match="another order"):
        dataset.load_state_dict(IterableDataset(images, BATCH, seed=8).state_dict())


def _rank(rank, world, port, token_file, state, results):
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), HEADWATER_TOKEN_FILE=token_file)
    torch.distributed.init_process_group("gloo", rank=rank, world_size=world)
    import headwater

    images = headwater.connect().dataset("lab/images@latest")
    loader = DataLoader(IterableDataset(images, BATCH, seed=7, transform=numbers_and_labels, remainder="uneven"))
    if state:
        loader.load_state_dict(state)
    got = read(loader, None if state else 5)
    results.put((rank, got, None if state else loader.state_dict()))
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()


def _ranks(world, state=None):
    context = multiprocessing.get_context("spawn")
    results = context.Queue()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    token_file = os.environ["HEADWATER_TOKEN_FILE"]
    ranks = [context.Process(target=_rank, args=(rank, world, port, token_file, state, results)) for rank in range(world)]
    for rank in ranks:
        rank.start()
    said = sorted(results.get(timeout=120) for _ in ranks)
    for rank in ranks:
        rank.join(60)
        assert rank.exitcode == 0
    return [got for _, got, _ in said], said[0][2]


def test_ranks_of_torch_distributed_share_an_epoch(images):
    parts, state = _ranks(2)
    assert state["position"] == 2 * 5 * BATCH
    first = [parts[i % 2][i // 2] for i in range(2 * 5 * BATCH)]
    rest, _ = _ranks(3, state)
    left = IMAGES - len(first)
    after = [rest[i % 3][i // 3] for i in range(left)]
    assert first + after == whole(images)
