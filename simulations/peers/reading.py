"""Reading in Python, for the benchmarks: through Headwater, and by MosaicML's streaming from local shards.

Each command prints one JSON document.
"""

import argparse
import json
import time

MOSAIC_SHARD_BYTES = 1 << 26


def small(options):
    """Shuffled batches of small samples; the first pass is not counted."""
    import headwater

    dataset = headwater.connect().dataset(options.dataset)
    batches(dataset, options.batch, 0)
    rates = []
    for epoch in (1, 2, 3):
        began = time.perf_counter()
        samples = batches(dataset, options.batch, epoch)
        rates.append(samples / (time.perf_counter() - began))
    return {"samples_per_s": sorted(rates)[1], "transport": dataset.client.stats().transport}


def batches(dataset, size, epoch):
    samples = 0
    for batch in dataset.batches(size, seed=1, epoch=epoch):
        images = batch.array(batch.fields[0])
        samples += len(images)
        # What is looked at has arrived.
        assert images[-1, 0] >= 0
    return samples


def mosaic_write(options):
    """Shards of random samples."""
    import numpy
    from streaming import MDSWriter

    generator = numpy.random.default_rng(1)
    with MDSWriter(out=options.folder, columns={"image": "bytes"}, size_limit=MOSAIC_SHARD_BYTES) as writer:
        for _ in range(options.samples):
            writer.write({"image": generator.bytes(options.bytes)})
    return {}


def mosaic_small(options):
    """The same by streaming, in one process."""
    from streaming import StreamingDataset

    dataset = StreamingDataset(local=options.folder, shuffle=True, batch_size=options.batch)
    began = time.perf_counter()
    samples = sum(1 for sample in dataset if sample["image"])
    return {"samples_per_s": samples / (time.perf_counter() - began)}


def epochs(loader, of):
    """Two epochs; the samples per second of each."""
    rates = []
    for _ in range(2):
        began = time.perf_counter()
        samples = sum(of(batch) for batch in loader)
        rates.append(samples / (time.perf_counter() - began))
    return {"samples_per_s": rates}


def images(options):
    """Samples as large as photographs, through a stock DataLoader with two workers."""
    import torch

    import headwater
    from headwater.torch import IterableDataset

    dataset = IterableDataset(headwater.connect().dataset(options.dataset), options.batch)
    loader = torch.utils.data.DataLoader(dataset, batch_size=None, num_workers=2)
    return epochs(loader, lambda batch: len(next(iter(batch.values()))))


def mosaic_images(options):
    """The same by streaming from local shards."""
    import torch
    from streaming import StreamingDataset

    dataset = StreamingDataset(local=options.folder, shuffle=True, batch_size=options.batch)
    loader = torch.utils.data.DataLoader(dataset, batch_size=options.batch, num_workers=2)
    return epochs(loader, lambda batch: len(batch["image"]))


def start(options):
    """From nothing to the first batch of an epoch that begins at `--start`."""
    import headwater

    before = resident()
    began = time.perf_counter()
    dataset = headwater.connect().dataset(options.dataset)
    reading = dataset.batches(options.batch, seed=1, start=options.start)
    next(reading)
    first = time.perf_counter() - began
    for _ in range(20):
        next(reading)
    return {"samples": len(dataset), "seconds": first, "grown_bytes": resident() - before}


def resident():
    with open("/proc/self/statm") as statm:
        return int(statm.read().split()[1]) * 4096


COMMANDS = {
    "small": small,
    "mosaic-write": mosaic_write,
    "mosaic-small": mosaic_small,
    "images": images,
    "mosaic-images": mosaic_images,
    "start": start,
}


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("command", choices=COMMANDS)
    parser.add_argument("--dataset")
    parser.add_argument("--folder")
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--samples", type=int)
    parser.add_argument("--bytes", type=int)
    parser.add_argument("--start", type=int, default=0)
    options = parser.parse_args()
    print(json.dumps(COMMANDS[options.command](options)))


if __name__ == "__main__":
    main()
