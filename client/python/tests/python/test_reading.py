import gc
import pickle

import numpy as np
import pytest
from conftest import IMAGES, MIXED, expected, mixed_length

import headwater


def test_samples_by_number(images):
    assert len(images) == IMAGES
    assert images.label == "lab/images@1"
    sample = images[7]
    assert sample.number == 7
    assert list(sample) == ["img", "label"]
    assert np.array_equal(sample["img"], expected(7, 784))
    assert sample.bytes("label") == b"\x07"
    assert images[-1].number == IMAGES - 1
    assert [one.number for one in images[10:13]] == [10, 11, 12]
    assert [one.number for one in images[[5, 5, 3]]] == [5, 5, 3]
    assert [one.number for one in images[np.array([8, 1])]] == [8, 1]


def test_what_makes_no_sense_is_said(images, client):
    with pytest.raises(IndexError, match="no sample 2000"):
        images[IMAGES]
    with pytest.raises(IndexError):
        images.read([IMAGES])
    with pytest.raises(KeyError, match="no field `png`, but: img, label"):
        images[0]["png"]
    with pytest.raises(KeyError, match="say which"):
        images[0].array()
    with pytest.raises(headwater.NotFoundError) as raised:
        client.dataset("lab/imags@latest")
    assert raised.value.code == "HW-2002" and "lab/images" in str(raised.value)
    with pytest.raises(headwater.NotFoundError):
        client.dataset("lab/images@99")
    with pytest.raises(headwater.NotFoundError):
        client.dataset("elsewhere/images@latest")
    for wrong in (
        {"batch_size": 0},
        {"batch_size": 8, "world_size": 0, "rank": 0},
        {"batch_size": 8, "world_size": 2, "rank": 2},
        {"batch_size": 8, "world_size": 3, "rank": 0, "replication": 2},
        {"batch_size": 8, "seed": -1},
        {"batch_size": 8, "shuffle": "thoroughly"},
        {"batch_size": 8, "remainder": "keep"},
        {"batch_size": 8, "fraction": 0},
        {"batch_size": 8, "start": IMAGES + 1},
    ):
        with pytest.raises(ValueError):
            images.batches(**wrong)
    with pytest.raises(TypeError, match="seed has to be a whole number"):
        images.batches(8, seed="7")
    with pytest.raises(headwater.Error, match="HW-1003"):
        headwater.connect(token="no token")
    with pytest.raises(headwater.Error, match="/nowhere/token.*No such file"):
        headwater.connect(token_file="/nowhere/token")


def test_fields_of_one_length_are_stacked_over_the_buffer(images):
    batch = images.read(range(100, 164))
    found = batch["img"]
    assert found.shape == (64, 784) and found.base is not None
    assert all(np.array_equal(found[i], expected(100 + i, 784)) for i in range(64))
    assert batch.array("label", np.int8, ()).tolist() == [n % 10 for n in range(100, 164)]
    pictures = batch.array("img", np.uint8, (28, 28))
    assert pictures.shape == (64, 28, 28)
    assert np.shares_memory(found, batch.column("img"))
    with pytest.raises(ValueError, match="whole number of"):
        batch.array("label", np.float64)


def test_fields_of_many_lengths_are_bytes_and_places(mixed):
    assert len(mixed) == MIXED
    batch = mixed.read(range(MIXED))
    column = batch["bin"]
    assert isinstance(column, headwater.Ragged)
    assert column.lengths.tolist() == [mixed_length(n) for n in range(MIXED)]
    for number, data in enumerate(column):
        assert np.array_equal(data, expected(number, mixed_length(number)))
    with pytest.raises(ValueError, match="not of one length"):
        batch.array()
    assert len(column[3:7]) == 4


def test_a_buffer_lives_as_long_as_any_array_over_it(client, images):
    kept = images.read([11])["img"]
    for start in range(0, IMAGES, 50):
        images.read(range(start, start + 50))
    gc.collect()
    assert np.array_equal(kept[0], expected(11, 784))
    # It is the reader's to write in.
    kept[0, :] = 9
    assert np.array_equal(images.read([11])["img"][0], expected(11, 784))


def test_all_ranks_together_read_each_sample_once(images):
    def numbers(**order):
        return [n for batch in images.batches(32, seed=3, epoch=1, **order) for n in batch.numbers.tolist()]

    whole = numbers(rank=0, world_size=1)
    assert sorted(whole) == list(range(IMAGES)) and whole != sorted(whole)
    for world in (3, 8):
        parts = [numbers(rank=rank, world_size=world, remainder="uneven") for rank in range(world)]
        interleaved = [parts[i % world][i // world] for i in range(IMAGES)]
        assert interleaved == whole
    assert numbers(rank=0, world_size=1, shuffle="block", block_size=100) != whole
    assert numbers(rank=0, world_size=1, shuffle=False) == list(range(IMAGES))
    tenth = numbers(rank=0, world_size=1, fraction=0.1)
    assert len(set(tenth)) == IMAGES // 10
    same = [numbers(rank=rank, world_size=4, replication=2) for rank in range(4)]
    assert same[0] == same[1] and same[2] == same[3] and not set(same[0]) & set(same[2])


def test_an_epoch_resumes_at_any_number_of_ranks(images):
    whole = [n for batch in images.batches(25, seed=5) for n in batch.numbers.tolist()]
    first = images.batches(25, seed=5)
    read = [n for _ in range(12) for n in next(first).numbers.tolist()]
    state = pickle.loads(pickle.dumps(first.state_dict()))
    assert state["position"] == 300 == first.position
    for world in (1, 2, 3):
        parts = [
            [n for batch in images.batches(25, seed=5, rank=rank, world_size=world, remainder="uneven", state=state) for n in batch.numbers]
            for rank in range(world)
        ]
        rest = [parts[i % world][i // world] for i in range(IMAGES - 300)]
        assert read + rest == whole
    with pytest.raises(ValueError, match="another order: seed=5"):
        images.batches(25, seed=6, state=state)


def test_a_filter_keeps_samples_by_their_paths(client, images):
    def numbers(**order):
        return sorted(n for batch in images.batches(32, **order) for n in batch.numbers.tolist())

    assert numbers(filter="00*.img") == list(range(1000))
    assert numbers(filter=("0000*.label", "0199?.img")) == [*range(10), *range(1990, 2000)]
    assert len(numbers(filter="00*.img", fraction=0.1)) == 100
    first = images.batches(32, filter="00*.img", seed=3)
    read = [n for _ in range(4) for n in next(first).numbers.tolist()]
    rest = images.batches(32, filter="00*.img", seed=3, state=first.state_dict())
    assert sorted(read + [n for batch in rest for n in batch.numbers.tolist()]) == list(range(1000))
    with pytest.raises(ValueError, match="another order: filter"):
        images.batches(32, seed=3, state=first.state_dict())
    with pytest.raises(headwater.NotFoundError, match="no sample of `lab/images@1` has a file that matches"):
        images.batches(32, filter="*.png")
    with pytest.raises(headwater.Error, match="filter can't be read"):
        images.batches(32, filter="[")
    deep = client.dataset("lab/table@latest")
    assert [n for batch in deep.batches(8, filter="**/*.csv") for n in batch.numbers.tolist()] == [0]


def test_labels_keep_samples_by_what_is_in_them(client):
    labelled = client.dataset("lab/labelled@latest")

    def numbers(dataset=labelled, **order):
        return sorted(n for batch in dataset.batches(32, **order) for n in batch.numbers.tolist())

    assert numbers(labels={".cls": 3}) == [n for n in range(300) if n % 5 == 3]
    assert numbers(labels={"cls": ["3", 4]}) == [n for n in range(300) if n % 5 in (3, 4)]
    assert numbers(labels={".json:label": 2, ".json:sky.rain": True}) == [n for n in range(300) if n % 7 == 2 and n % 3 == 0]
    assert numbers(labels={".json:seen": "dog"}, filter="00*.jpg") == [n for n in range(100) if n % 4 == 0]
    assert len(numbers(labels={".cls": 3}, fraction=0.5)) == 30

    # It goes on where it was, and nowhere else.
    first = labelled.batches(10, labels={".cls": {1, 2}}, seed=5)
    read = [n for _ in range(3) for n in next(first).numbers.tolist()]
    state = first.state_dict()
    parts = [
        [n for batch in labelled.batches(10, labels={".cls": [2, 1]}, seed=5, state=state, rank=rank, world_size=3, remainder="uneven") for n in batch.numbers.tolist()]
        for rank in range(3)
    ]
    assert sorted(read + sum(parts, [])) == [n for n in range(300) if n % 5 in (1, 2)]
    with pytest.raises(ValueError, match="another order: labels"):
        labelled.batches(10, labels={".cls": 1}, seed=5, state=state)

    # Records inside files; more runs than can be declared.
    events = client.dataset("lab/events@latest")
    assert len(events) == 12_000
    assert numbers(events, labels={".json:label": [0, 2, 4]}) == [n for n in range(12_000) if n % 7 in (0, 2, 4)]
    assert numbers(events, labels={".json:sky.rain": False, ".json:label": 6}) == [n for n in range(12_000) if n % 7 == 6 and n % 3]

    with pytest.raises(headwater.NotFoundError, match="no sample of `lab/labelled@1` is labelled `.cls` = 9"):
        labelled.batches(10, labels={".cls": 9})
    with pytest.raises(headwater.Error, match="is no field of a sample"):
        labelled.batches(10, labels={"": 9})
    with pytest.raises(TypeError, match="a label's value"):
        labelled.batches(10, labels={".cls": [b"3"]})


def test_a_state_of_another_dataset_is_refused(images, mixed):
    with pytest.raises(ValueError, match="lab/mixed@1"):
        images.batches(8, state=mixed.batches(8).state_dict())


def test_files_of_a_version(client):
    table = client.dataset("lab/table@latest")
    assert [file.path for file in table.files()] == ["2026/november.csv", "deep/er/none.txt", "note.txt"]
    assert table.read_range("note.txt", 7, 5) == b"north"
    assert table.read_range("note.txt", 7, 500) == b"north field"
    with table.open("2026/november.csv") as file:
        lines = file.read().decode().splitlines()
        assert len(lines) == 501
        file.seek(-5, 2)
        assert file.read() == b"19.5\n"
    with pytest.raises(FileNotFoundError):
        table.open("none.csv")
    assert client.datasets() == {f"lab/{name}": 1 for name in ("events", "images", "labelled", "mixed", "table")}


def test_stats_say_what_was_read_and_over_what(client, images):
    before = client.stats()
    images.read(range(10))
    after = client.stats()
    assert after.samples == before.samples + 10
    assert after.bytes == before.bytes + 10 * 785
    assert after.wait_seconds > before.wait_seconds
    assert after.transport == "tcp" and after.transport_reason
    assert after.mismatches == 0


def test_a_batch_is_not_sent_to_other_processes(images):
    with pytest.raises(TypeError, match="view of this process's memory"):
        pickle.dumps(images.read([1]))
    again = pickle.loads(pickle.dumps(images))
    assert again.label == images.label and again[3].number == 3
