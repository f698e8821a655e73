"""Shared by all tests."""

import os

os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # tests run beside each other; before torch

import pytest
import torch
from jaxtyping import install_import_hook

install_import_hook("precocial", "runtime_types.checked")


@pytest.fixture
def rng() -> torch.Generator:
    return torch.Generator().manual_seed(0)


@pytest.fixture
def double():
    """Double precision, for comparisons with closed forms."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)
