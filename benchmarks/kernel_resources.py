"""Compile the Triton kernels for GPUs that need not be there, and print what each takes of one.

    python -m benchmarks.kernel_resources --capability 75 80 90

Registers, bytes of spilled registers and shared memory, for the study's head size by default. What compiles here loads
on such a GPU if its shared memory suffices: 64 KiB a program at 7.5, 163 KiB at 8.0, 227 KiB at 9.0.
"""

import argparse
import os
import re
import subprocess
import tempfile
from pathlib import Path

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from orthonar.engine.kernels import chunk_filter, chunk_reads, states
from orthonar.engine.kernels.tiles import ALL_REGISTERS, padded

_MODULES = {"chunk_filter": chunk_filter, "chunk_reads": chunk_reads, "states": states}
#: Programs, and for `chunk_reads` the type of the states.
PROGRAMS = (
    ("chunk_reads", "_forward", "fp32"), ("chunk_reads", "_backward", "fp32"),
    ("chunk_reads", "_forward", "fp64"), ("chunk_reads", "_backward", "fp64"),
    ("chunk_filter", "_prepare_start", ""), ("chunk_filter", "_prepare", ""), ("chunk_filter", "_recur", ""),
    ("chunk_filter", "_sums", ""),
    ("chunk_filter", "_gradients", ""),
    ("chunk_filter", "_exact", ""), ("chunk_filter", "_exact_backward", ""),
    ("states", "_forward", ""), ("states", "_backward", ""),
)  # fmt: skip
#: What Triton's compiler takes, ten times the capability; of any other it ends the process.
CAPABILITIES = (75, 80, 86, 87, 89, 90, 100, 103, 110, 120, 121)
_WITH_ALL_REGISTERS = (("chunk_reads", "_backward"), ("chunk_filter", "_prepare"), ("chunk_filter", "_sums"))
_FEW_WARPS, _MANY_WARPS = ("_recur", "_sums"), ("_prepare_start", "_gradients")
_ALWAYS_SINGLE = {
    "q", "k", "v", "grad_q", "grad_k", "grad_v", "scaled", "over_norm", "clamped", "gram", "kc", "kk", "a", "w", "b",
    "kept", "r", "p", "form", "grad_scaled", "of_gram", "of_kc",
    "of_v", "of_kk", "of_w", "squared",
}  # fmt: skip


def _type_of(argument: str, module: str, program: str, state: str) -> str:
    """Triton's type of an argument, by its name."""
    if not argument.endswith("_ptr"):
        return "i32" if argument in ("degree", "stay", "chunks", "size") else "fp32"
    name = argument.removesuffix("_ptr")
    if name == "flag":
        return "*i32"
    if module == "chunk_reads" and name in ("c0", "grad_c0", "y", "grad_y"):
        return f"*{state}"
    if name in _ALWAYS_SINGLE or (module == "chunk_filter" and name in ("y", "grad_y")):
        return "*fp32"
    return "*fp32" if (name, program) == ("z", "_gradients") else "*fp64"


def compile_program(module: str, program: str, state: str, capability: int, length: int, size: int) -> dict[str, int]:
    """Compile one program to machine code.

    Args:
        module: of `orthonar.engine.kernels`.
        program: its name there.
        state: type of the states in `chunk_reads`, "fp32" or "fp64".
        capability: ten times the GPU's compute capability.
        length: positions in a chunk.
        size: head size.

    Returns:
        "registers" a thread, bytes "spilled" a thread, bytes of "shared" memory, and "instructions".
    """
    function = getattr(_MODULES[module], program)
    precision = "ieee" if capability < 80 else "tf32x3"
    sizes = {"L": length, "D": size, "LP": padded(length), "DP": padded(size)}
    constants = sizes | {"PRECISION": precision, "KEEP": True, "ADJOINT": True, "PIECE": 512, "WIDE": capability >= 80}
    names = function.arg_names
    signature = {a: "constexpr" if a in constants else _type_of(a, module, program, state) for a in names}
    values = {(names.index(a),): value for a, value in constants.items() if a in names}
    source = ASTSource(fn=function, signature=signature, constexprs=values)
    few = chunk_filter._WARPS if capability >= 80 else 4
    warps = few if program in _FEW_WARPS else chunk_filter._MANY_WARPS if program in _MANY_WARPS else 4
    options = {"num_stages": 1, "num_warps": warps}
    if (module, program) in _WITH_ALL_REGISTERS:
        options |= ALL_REGISTERS
    compiled = triton.compile(source, target=GPUTarget("cuda", capability, 32), options=options)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "program.cubin")
        path.write_bytes(compiled.asm["cubin"])
        tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
        usage = subprocess.run([tool, "-res-usage", path], check=True, capture_output=True, text=True).stdout
        code = subprocess.run([tool, "-sass", path], check=True, capture_output=True, text=True).stdout
    return {
        "registers": int(re.search(r"REG:(\d+)", usage)[1]),
        "spilled": int(re.search(r"STACK:(\d+)", usage)[1]),
        "shared": compiled.metadata.shared,
        "instructions": len(re.findall(r"/\*[0-9a-f]{4,5}\*/\s+\S", code)),
    }


def main(arguments: list[str] | None = None) -> None:
    """Parse the command line, compile, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    capability = {"choices": CAPABILITIES, "default": [75, 80, 90], "help": "ten times the capability"}
    parser.add_argument("--capability", type=int, nargs="+", **capability)
    parser.add_argument("--chunk-size", type=int, default=16, help="positions in a chunk")
    parser.add_argument("--head-size", type=int, default=48, help="numbers in a head")
    args = parser.parse_args(arguments)
    if min(args.chunk_size, args.head_size) < 1:
        parser.error("--chunk-size and --head-size are at least 1")
    if os.environ.get("TRITON_INTERPRET") == "1":
        parser.error("TRITON_INTERPRET must not be set: interpreted kernels are not compiled")
    print(f"triton {triton.__version__}, chunks of {args.chunk_size}, heads of {args.head_size}")
    print(f"{'program':30s}{'capability':>12s}{'registers':>12s}{'spilled':>10s}{'shared':>10s}{'instructions':>14s}")
    for capability in args.capability:
        for module, program, state in PROGRAMS:
            used = compile_program(module, program, state, capability, args.chunk_size, args.head_size)
            name = f"{module}.{program} {state}"
            print(
                f"{name:30s}{capability:12d}"
                + "{registers:12d}{spilled:10d}{shared:10d}{instructions:14d}".format(**used)
            )


if __name__ == "__main__":
    main()
