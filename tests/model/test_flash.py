import re

import pytest
import torch
import torch.nn.functional as F
from torch.nn import attention
from torch.nn.attention import SDPBackend, sdpa_kernel

from plgolf.model import flash
from plgolf.model.causal import gpu_kernels


class Handle:
    def remove(self):
        pass


@pytest.fixture
def installed(monkeypatch):
    """Returns a function that lets PyTorch find the named packages and no others."""
    from torch.nn.attention import _registry

    def register(*names):
        for name in ("FA3", "FA4"):
            attention.register_flash_attention_impl(name, register_fn=Handle if name in names else missing)

    def missing():
        raise ModuleNotFoundError("no such package")

    monkeypatch.setattr(_registry, "_FLASH_ATTENTION_IMPLS", dict(_registry._FLASH_ATTENTION_IMPLS))
    yield register
    attention.restore_flash_attention_impl(_raise_warn=False)


@pytest.fixture
def gpu(monkeypatch):
    """Returns a function that makes the CPU look like a GPU of some capability."""

    def of(capability):
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
        return torch.device("cpu")

    return of


@pytest.mark.parametrize(
    ("names", "capability", "used"),
    [
        ((), (9, 0), None),
        (("FA3",), (9, 0), "FA3"),
        (("FA3", "FA4"), (9, 0), "FA4"),
        (("FA3",), (10, 0), None),
        (("FA4",), (10, 3), "FA4"),
        (("FA3", "FA4"), (8, 9), None),
    ],
)
def test_the_newest_installed_version_that_supports_the_gpu_is_used(installed, gpu, names, capability, used):
    installed(*names)
    assert flash.activate_flash_attention(gpu(capability)) == used
    assert flash.in_use() == used


def test_without_the_packages_pytorchs_kernel_stays(gpu):
    assert flash.activate_flash_attention(gpu((9, 0))) is None and flash.in_use() is None


def returns_too_many(*_args, **_kwargs):
    raise ValueError("too many values to unpack (expected 2)\nraised by versions that do not fit together")


def forgets_the_mask(q, k, v, **_kwargs):
    with sdpa_kernel(SDPBackend.MATH):
        return attend(q, k, v, enable_gqa=True)


attend = F.scaled_dot_product_attention


@pytest.mark.parametrize(
    ("kernel", "fault"),
    [
        (returns_too_many, "ValueError: too many values to unpack (expected 2)"),
        (forgets_the_mask, "its results are off by"),
    ],
)
def test_one_that_fails_its_self_test_is_taken_back(installed, gpu, monkeypatch, kernel, fault):
    installed("FA3", "FA4")

    def broken(q, k, v, **words):
        return (kernel if q.dtype == torch.bfloat16 and flash.in_use() == "FA4" else attend)(q, k, v, **words)

    monkeypatch.setattr(F, "scaled_dot_product_attention", broken)
    message = f"FA4 is installed, but PyTorch's own kernel is used: {fault}"
    with pytest.warns(UserWarning, match=re.escape(message)):
        assert flash.activate_flash_attention(gpu((9, 0))) == "FA3"
    assert flash.in_use() == "FA3"


def test_if_the_only_one_fails_pytorchs_kernel_stays(installed, gpu, monkeypatch):
    installed("FA4")
    monkeypatch.setattr(F, "scaled_dot_product_attention", returns_too_many)
    with pytest.warns(UserWarning, match="FA4 is installed"):
        assert flash.activate_flash_attention(gpu((10, 0))) is None
    assert flash.in_use() is None


def test_an_active_flash_attention_is_preferred_to_cudnn():
    kernels = gpu_kernels((9, 0), torch.bfloat16, newest_flash=True)
    assert kernels[0] is SDPBackend.FLASH_ATTENTION
    assert gpu_kernels((9, 0), torch.bfloat16)[0] is SDPBackend.CUDNN_ATTENTION
