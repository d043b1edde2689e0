import pytest
import torch
from torch.nn import attention
from torch.nn.attention import SDPBackend

from plgolf.model import flash
from plgolf.model.causal import gpu_kernels


class Handle:
    def remove(self):
        pass


@pytest.fixture
def installed(monkeypatch):
    """Returns a function that has PyTorch find some of the two packages, and no others."""
    from torch.nn.attention import _registry

    def register(*names):
        for name in ("FA3", "FA4"):
            attention.register_flash_attention_impl(name, register_fn=Handle if name in names else missing)

    def missing():
        raise ModuleNotFoundError("no such package")

    monkeypatch.setattr(_registry, "_FLASH_ATTENTION_IMPLS", dict(_registry._FLASH_ATTENTION_IMPLS))
    yield register
    attention.restore_flash_attention_impl(_raise_warn=False)


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
def test_the_newest_that_is_installed_and_made_for_the_gpu(installed, names, capability, used):
    installed(*names)
    assert flash.use_installed(capability) == used
    assert flash.in_use() == used


def test_without_one_of_them_nothing_is_in_use():
    # As the packages are here: none of them.
    assert flash.use_installed((9, 0)) is None and flash.in_use() is None


def test_it_goes_before_cudnn():
    kernels = gpu_kernels((9, 0), torch.bfloat16, newest_flash=True)
    assert kernels[0] is SDPBackend.FLASH_ATTENTION
    assert gpu_kernels((9, 0), torch.bfloat16)[0] is SDPBackend.CUDNN_ATTENTION
