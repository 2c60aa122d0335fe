"""How memory is used."""

import resource

import pytest
import torch

from gcl_toolkit.machine import kept_memory


def faults() -> int:
    """Pages that the system gives for 20 tensors of 40 MB, each freed before the next."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(20):
        torch.ones(10_000_000)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before


def test_kept_memory_is_used_again_and_given_back():
    faults()
    outside = faults()
    if outside < 100_000:
        pytest.skip("huge pages, or another C library: freed memory costs nothing here")
    with kept_memory():
        with kept_memory():
            faults()
        assert faults() < outside / 4
        held = resident()
    assert resident() < held - 30_000_000


def resident() -> int:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * resource.getpagesize()
