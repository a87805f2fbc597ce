"""Which errors say that a GPU has too little memory."""

import pytest
import torch

from d3tune.method.memory import give_back_gpu_memory, gpu_context_lost, limit_gpu_memory, out_of_gpu_memory


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("Tried to allocate 20.00 GiB"),
        RuntimeError("CUDA out of memory. Tried to allocate 20.00 GiB"),
        RuntimeError("CUDA error: out of memory\nCUDA kernel errors might be asynchronously reported"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    ],
)
def test_a_gpu_without_room_is_told_from_other_faults(error: Exception) -> None:
    assert out_of_gpu_memory(error)


@pytest.mark.parametrize(
    "error",
    [
        MemoryError("CUDA out of memory"),
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes"),
        RuntimeError("CUDA error: device-side assert triggered"),
        KeyError("CUDA out of memory"),
    ],
)
def test_other_faults_are_not_taken_for_it(error: Exception) -> None:
    assert not out_of_gpu_memory(error)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_without_a_gpu_there_is_nothing_to_limit_and_nothing_to_give_back() -> None:
    limit_gpu_memory(0.5)
    give_back_gpu_memory()
    assert not torch.cuda.is_initialized()


@pytest.mark.parametrize(
    ("said", "lost"),
    [("CUDA error: an illegal memory access was encountered", True), ("CUDA error: out of memory", False), ("", False)],
)
def test_a_gpu_that_takes_nothing_any_more_is_told_from_one_that_is_full(
    monkeypatch: pytest.MonkeyPatch, said: str, lost: bool
) -> None:
    assert not gpu_context_lost(), "nothing uses a GPU here"

    def synchronize() -> None:
        if said:
            raise RuntimeError(said)

    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "synchronize", synchronize)
    monkeypatch.setattr(torch, "zeros", lambda *sizes, device: None)
    assert gpu_context_lost() == lost
