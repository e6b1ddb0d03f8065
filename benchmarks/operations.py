"""What a training step costs: operations by formula, and the records of `python -m benchmarks.cost` as tables.

The formulas count what matrix products and convolutions take, a multiplication and an addition as 2, forward and
backward; element-wise work, gates and the optimizer are left out, as is usual. They count what the method asks for at
the sizes given: neither head sizes that are padded for speed, nor chunks that are read again because writes cancel.

A pair of dense products with gradients to both factors costs three times its forward pass.
"""

from orthonar.model import ModelConfig

#: Chunk sizes of the chunkwise form where none is asked for; that for the raw read is also that of compiled loops.
CHUNK_FOR_FILTER, CHUNK_FOR_RAW = 16, 32


def passes(degree: int) -> int:
    """Products of all positions with their memories, or the transposed: two a degree, and C^T q, n . q and ||C||."""
    return 2 * degree + 3


def plain_cell(batch: int, length: int, heads: int, size: int, steps: int) -> int:
    """Operations of the plain form, which iterates on every position's matrix.

    4 D^3 a Newton-Schulz step and 2 D^2 for the query, at every position and head, three times.

    Args:
        batch: sequences.
        length: positions in a sequence.
        heads: memories.
        size: D, rows and columns of a memory.
        steps: Newton-Schulz steps.

    Returns:
        Floating-point operations, forward and backward.
    """
    return 3 * batch * length * heads * (4 * steps * size**3 + 2 * size**2)


def chunkwise_cell(
    batch: int, length: int, heads: int, size: int, degree: int | None = None, chunk_size: int | None = None
) -> int:
    """Operations of the chunkwise form, raw or with a filter.

    With L positions in a chunk, every chunk costs 12 L D^2 + 14 L^2 D + 4 L D + 2 D^2 + 2 D for the raw read; a filter
    adds 6 D^3 + 6 L D^2 + 12 L^2 D + 6 L^3 + 8 L^2 for what its products share, and n (6 L D^2 + 28 L^2 D + 8 L^3).

    Args:
        batch: sequences.
        length: positions in a sequence; the last chunk counts as full.
        heads: memories.
        size: D, rows and columns of a memory.
        degree: n, products with A, as `len(read.coefficients(dtype)) - 1` says; None for the raw read.
        chunk_size: L; None for the form's own.

    Returns:
        Floating-point operations, forward and backward.
    """
    if chunk_size is None:
        chunk_size = CHUNK_FOR_RAW if degree is None else CHUNK_FOR_FILTER
    n_pos, d = min(chunk_size, length), size
    each = 12 * n_pos * d**2 + 14 * n_pos**2 * d + 4 * n_pos * d + 2 * d**2 + 2 * d
    if degree is not None:
        each += 6 * d**3 + 6 * n_pos * d**2 + 12 * n_pos**2 * d + 6 * n_pos**3 + 8 * n_pos**2
        each += degree * (6 * n_pos * d**2 + 28 * n_pos**2 * d + 8 * n_pos**3)
    return batch * heads * -(-length // n_pos) * each


def compiled_cell(batch: int, length: int, heads: int, size: int, degree: int | None = None) -> int:
    """Operations of the loops that Numba compiles for CPUs, which follow the memory position by position.

    A memory costs 18 D^2 a position: 4 to be written and read, and as much again for its states in the backward pass,
    8 for the adjoint, written twice and read twice, and 2 for the gates. A filter adds (36 + 6 n) D^2: A is kept, 8 D^2
    in each pass, and applied n times; its adjoint takes 2 n products more, 20 D^2 lead back to keys, values and gates.
    A chunk starts with C^T C, in each pass, and its adjoint: 6 D^3.

    Args:
        batch: sequences.
        length: positions in a sequence; the last chunk counts as full.
        heads: memories.
        size: D, rows and columns of a memory.
        degree: n, products with A; None for the raw read.

    Returns:
        Floating-point operations, forward and backward.
    """
    n_pos, d = min(CHUNK_FOR_RAW, length), size
    each = 18 * n_pos * d**2
    if degree is not None:
        each += (36 + 6 * degree) * n_pos * d**2 + 6 * d**3
    return batch * heads * -(-length // n_pos) * each


def stock_cell(batch: int, length: int, heads: int, size: int) -> int:
    """Operations of the quadratic form that the package `xlstm` has: 4 S^2 D a head, three times.

    Args:
        batch: sequences.
        length: S, positions in a sequence.
        heads: memories.
        size: D, rows and columns of a memory.

    Returns:
        Floating-point operations, forward and backward.
    """
    return 12 * batch * heads * length**2 * size


def layers(config: ModelConfig, batch: int, length: int, stock: bool = False, compiled: bool = False) -> int:
    """Operations of the study's model around the cell.

    At each of P positions 4 E I for the up-projection, 2 I K for the convolution, 2 I E for the down-projection and
    2 E V for the logits. Queries, keys and values are projected by dense matrices of a head, 6 I D, and the gates by
    8 I NH and 12 I^2 once; by compiled loops and in the package `xlstm` by blocks of size b, 6 I b, in the latter the
    gates by 12 I NH. All three times.

    Args:
        config: sizes: width E, inner width I, heads NH of size D, vocabulary V, taps K, block size b.
        batch: sequences.
        length: positions in a sequence.
        stock: as the package `xlstm` does it; its convolution also filters the K - 1 positions that it cuts off.
        compiled: whether Numba compiles the projections.

    Returns:
        Floating-point operations, forward and backward.
    """
    e, v, mixer = config.embedding_dim, config.vocab_size, config.mixer
    i, k = mixer.inner_dim(e), mixer.conv_kernel_size
    projected_by = mixer.qkv_block_size if stock or compiled else mixer.head_size(e)
    each = 6 * e * i + 2 * e * v + 2 * i * k + 6 * i * projected_by
    if stock:
        once = batch * 2 * i * k * (k - 1)
        each += 12 * i * mixer.num_heads
    else:
        once = 12 * i**2
        each += 8 * i * mixer.num_heads
    return 3 * (batch * length * each + once)


def step_operations(
    contender: str,
    config: ModelConfig,
    batch: int,
    length: int,
    degree: int | None = None,
    steps: int | None = None,
    compiled: bool = False,
) -> int:
    """Operations of a whole training step of the study's model.

    Args:
        contender: "plain", "stock", "raw" or "orthogonalized".
        config: sizes of the model.
        batch: sequences.
        length: positions in a sequence.
        degree: of the filter, for "orthogonalized".
        steps: Newton-Schulz steps, for "plain".
        compiled: whether Numba compiles the chunkwise form, and the projections around it.

    Returns:
        Floating-point operations, forward and backward.
    """
    chunkwise = compiled_cell if compiled else chunkwise_cell
    sizes = (batch, length, config.mixer.num_heads, config.mixer.head_size(config.embedding_dim))
    cell = {
        "plain": lambda: plain_cell(*sizes, steps),
        "stock": lambda: stock_cell(*sizes),
        "raw": lambda: chunkwise(*sizes),
        "orthogonalized": lambda: chunkwise(*sizes, degree),
    }[contender]()
    by_loops = compiled and contender in ("raw", "orthogonalized")
    return cell + layers(config, batch, length, stock=contender == "stock", compiled=by_loops)
