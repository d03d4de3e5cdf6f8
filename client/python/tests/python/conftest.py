"""The core and its data come from `tests/package.rs`."""

import numpy as np
import pytest

import headwater

IMAGES = 2000
MIXED = 150


def expected(number, length):
    """The bytes of a file."""
    return ((number * 31 + np.arange(length) * 7) % 251).astype(np.uint8)


def mixed_length(number):
    return 700_000 + number if number % 50 == 49 else number * 37


@pytest.fixture(scope="session")
def client():
    with headwater.connect() as client:
        yield client


@pytest.fixture
def images(client):
    return client.dataset("lab/images@latest")


@pytest.fixture
def mixed(client):
    return client.dataset("lab/mixed@latest")
