"""When the fused kernels are used, and that they compile for GPUs that are not here.

What they compute is tested beside what they are compared with: test_chunk_memory.py and test_mlstm.py.
"""

import os
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from orthonar import mlstm_sequence
from orthonar.engine import backends as fused

_ROOT = Path(__file__).parents[1]
CPU, CUDA = torch.device("cpu"), torch.device("cuda")


def sequence(size: int = 4):
    generator = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(1, 1, 6, size, generator=generator) for _ in range(3))
    return q, k, v, *(torch.randn(1, 1, 6, generator=generator) for _ in range(2))


def test_a_cpu_uses_them_only_when_asked():
    assert not fused.can_fuse(CPU, 48, 16, True, "float32")


def test_asked_for_where_they_cannot_run(monkeypatch):
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    with pytest.raises(ValueError, match="form: the fused kernels cannot run here: they need a GPU, not cpu"):
        mlstm_sequence(*sequence(), form="fused")


def test_asked_for_with_large_heads(monkeypatch):
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    with pytest.raises(ValueError, match="at most 64 numbers, not 65|triton is missing"):
        mlstm_sequence(*sequence(65), form="fused")


def test_unknown_precision_is_named():
    with pytest.raises(ValueError, match="precision must be one of 'float32', 'tf32', not 'bfloat16'"):
        mlstm_sequence(*sequence(), precision="bfloat16")


@pytest.mark.needs_triton
@pytest.mark.parametrize("filtered", [False, True])
def test_trial_finds_kernels_that_are_right(filtered):
    device = CUDA if torch.cuda.is_available() else CPU
    assert fused.trial_error(device, 5, 4, filtered, "float32") < 1e-5


@pytest.mark.needs_triton
@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_trial_where_no_gradients_are_wanted(mode):
    with mode():
        assert fused.trial_error(CUDA if torch.cuda.is_available() else CPU, 5, 4, False, "float32") < 1e-5


@pytest.mark.needs_triton
@pytest.mark.parametrize("around", ["grad", "vmap", "fake", "meta", "bfloat16"])
def test_the_trial_does_not_depend_on_where_it_is_first_asked_for(around):
    """Its answer is kept for all later calls."""
    device = CUDA if torch.cuda.is_available() else CPU
    fused._trial.cache_clear()

    def asked(x):
        assert fused._trial(device, 5, 4, True, "float32") is None
        return x

    x = torch.ones(2)
    if around == "grad":
        torch.func.grad(lambda x: asked(x).sum())(x)
    elif around == "vmap":
        torch.vmap(asked)(x)
    elif around == "fake":
        with FakeTensorMode():
            asked(x)
    elif around == "meta":
        with torch.device("meta"):
            asked(x)
    else:
        torch.set_default_dtype(torch.bfloat16)
        try:
            asked(x)
        finally:
            torch.set_default_dtype(torch.float32)
    fused._trial.cache_clear()


@pytest.mark.needs_triton
def test_what_is_exported_holds_no_kernel():
    class Cell(torch.nn.Module):
        def forward(self, *tensors):
            return mlstm_sequence(*tensors, form="fused")

    inputs = tuple(x.to(CUDA if torch.cuda.is_available() else CPU) for x in sequence())
    exported = torch.export.export(Cell(), inputs).module()
    torch.testing.assert_close(exported(*inputs), mlstm_sequence(*inputs, form="parallel"))


@pytest.mark.needs_triton
def test_trial_finds_kernels_that_are_wrong(monkeypatch):
    right = fused.fused_reads
    monkeypatch.setattr(fused, "fused_reads", lambda *x: tuple(1.01 * y for y in right(*x)))
    device = CUDA if torch.cuda.is_available() else CPU
    assert fused.trial_error(device, 5, 4, False, "float32") > 5e-3


@pytest.mark.parametrize(
    ("broken", "reason"),
    [(lambda *_: 1.0, "wrong by 1.0e\\+00"), (lambda *_: float("nan"), "wrong by nan")],
    ids=["wrong", "nan"],
)
def test_a_gpu_that_fails_its_trial_is_warned_about_once(broken, reason, monkeypatch):
    monkeypatch.setattr(fused, "trial_error", broken)
    monkeypatch.setattr(fused.importlib.util, "find_spec", lambda name: object())
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    fused._trial.cache_clear()
    fused._warn_once.cache_clear()
    with pytest.warns(RuntimeWarning, match=reason):
        assert not fused.can_fuse(CUDA, 48, 16, True, "float32")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert not fused.can_fuse(CUDA, 48, 16, True, "float32")
    fused._trial.cache_clear()
    fused._warn_once.cache_clear()


def test_nothing_imports_triton_without_a_gpu():
    code = """
import sys, torch
from orthonar import NewtonSchulzRead, mlstm_sequence
x = torch.ones(1, 1, 3, 4)
mlstm_sequence(x, x, x, x[..., 0], x[..., 0], read=NewtonSchulzRead())
assert not any(name.startswith(("orthonar.engine.kernels.tiles", "triton.language")) for name in sys.modules)
"""
    subprocess.run([sys.executable, "-c", code], check=True, env=_without_interpreter())


@pytest.mark.needs_triton
@pytest.mark.parametrize("capability", [90])  # 75 and 80, as well: python -m benchmarks.kernel_resources
def test_kernels_compile(capability, tmp_path):
    """To machine code, at a small head size."""
    command = [
        sys.executable,
        "-m",
        "benchmarks.kernel_resources",
        "--capability",
        str(capability),
        "--head-size",
        "16",
    ]
    environment = _without_interpreter() | {"TRITON_CACHE_DIR": str(tmp_path)}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=_ROOT)
    assert done.returncode == 0, done.stderr
    rows = [line.split() for line in done.stdout.splitlines() if f" {capability} " in line]
    assert len(rows) == 13
    # A kernel of 64 KiB of shared memory fits on the oldest.
    assert all(int(row[-2]) <= 64 << 10 for row in rows)


def _without_interpreter() -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    return kept | {"PYTHONPATH": str(_ROOT)}
