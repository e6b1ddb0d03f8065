"""What PyTorch may do with the cell: differentiate it twice, checkpoint it, map it, trace it.

Axes: N chunks, L positions in a chunk, D head size.
"""

import contextlib
import functools
import importlib
import pkgutil
import warnings

import pytest
import torch
from gpu import where_kernels_run
from test_reads import FunctionRead, OddPolynomialRead
from torch._dynamo.testing import CompileCounter
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils.checkpoint import checkpoint, create_selective_checkpoint_contexts

import orthonar
from benchmarks.oracle import hostile_inputs, run_with_grads
from orthonar import (
    BlendRead,
    DeltaWrite,
    MatrixStraightThroughRead,
    MesaRead,
    NewtonSchulzRead,
    PolarRead,
    RawRead,
    RLSRead,
    StraightThroughRead,
    mlstm_sequence,
)
from orthonar.engine import by_hand
from orthonar.engine.by_hand import HandWritten, _Gradient
from orthonar.engine.chunk_states import Scan
from orthonar.reads.mesa import _preconditioner

READS = {
    "raw": RawRead(),
    "one_step": NewtonSchulzRead(steps=1),
    "five_steps": NewtonSchulzRead(),
    "polar": PolarRead(cutoff=0.5),
    "mesa": MesaRead(),
    "rls": RLSRead(),
    "blend": BlendRead(),
    "straight_through": StraightThroughRead(),
    "matrix_straight_through": MatrixStraightThroughRead(),
}
every_read = pytest.mark.parametrize("read", [name for name in READS if name != "one_step"])
# The second has chunks whose writes cancel: they are read again, by another way.
FAMILIES = ["random", "opposite_every_pair_open"]
TWICE = "differentiated once, not twice"


def cell(read: str, form: str = "chunkwise", **options):
    def run(*tensors):
        return mlstm_sequence(*tensors, read=READS[read], form=form, **options)

    return where_kernels_run(run) if form == "fused" else run


def inputs_of(family: str = "random", seed: int = 0):
    return hostile_inputs(family, heads=1, length=20, size=3, seed=seed)


def loss_of(function):
    return lambda *tensors: function(*tensors).square().sum()


# Every function whose gradient is written by hand


@functools.cache
def functions_by_hand() -> dict[str, type]:
    """All of the package's classes of functions with gradients of their own, by module and name."""
    # Reports are no place for gradients, and take long to import.
    skipped = ["orthonar.report", "orthonar.reproduce", "orthonar.contents", "orthonar.sweep", "orthonar.study"]
    skipped.append("orthonar.verify")
    if not _can_interpret():
        skipped += [f"orthonar.engine.kernels.{name}" for name in ("chunk_filter", "chunk_reads", "states", "tiles")]
    for module in pkgutil.walk_packages(orthonar.__path__, "orthonar."):
        if not module.name.startswith(tuple(skipped)):
            importlib.import_module(module.name)
    found, seen = {}, [torch.autograd.Function]
    while seen:
        for kind in seen.pop().__subclasses__():
            seen.append(kind)
            if kind.__module__.startswith("orthonar.") and kind not in (HandWritten, _Gradient, Scan):
                found[f"{kind.__module__.removeprefix('orthonar.')}.{kind.__name__}"] = kind
    return found


def _is_of_triton(name: str) -> bool:
    return "kernels" in name and "cpu" not in name


def _can_interpret() -> bool:
    from conftest import why_no_triton

    return why_no_triton() is None


def operands(*shapes):
    """float64 tensors that require gradients."""
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(shape, generator=generator, dtype=torch.float64).requires_grad_() for shape in shapes]


N, L, D = 2, 3, 2
COEFFICIENTS = NewtonSchulzRead(steps=1).coefficients(torch.float64) + (0.1,)


def chunk_filter_case(function):
    z, shared, kk, log_a, log_w = operands((N, L, D), (N, D + 2 * L, D), (N, L, L), (N, L, 1), (N, L, L))
    future = torch.ones(L, L).triu(1).bool()
    arguments = z, shared, kk, log_a, log_w
    # The recurrence takes K K^T and C_0^T C_0 for symmetric, as they are.
    return arguments, lambda z, shared, kk, a, w: function.apply(
        z,
        torch.cat([shared[:, :D] + shared[:, :D].mT, shared[:, D:]], 1),
        kk + kk.mT,
        a - 3,
        (w - 3).masked_fill(future, -torch.inf),
        COEFFICIENTS,
        True,
        isinstance(function, Operator),
    )[0]


def reread_case(function):
    shapes = (N, L, D), (N, L, D), (N, L, D), (N, L, D), (N, L), (N, L), (N, 1), (N, D, D)
    cancelled = torch.arange(N) == 0
    return operands(*shapes), lambda y, q, k, v, g, p, s, c: function.apply(
        y, cancelled, q, k, v, *gates(g, p, s), c, COEFFICIENTS, 1e-6
    )


def gates(log_input, peak, peak_start):
    """Of any numbers, gates as they can be: nothing is added."""
    return log_input - 1, peak.abs() + 3, peak_start


def reads_case(function, *options):
    shapes = (N, L, D), (N, L, D), (N, L, D), (N, L), (N, L), (N, 1), (N, D, D), (N, D)
    return operands(*shapes), lambda q, k, v, g, p, s, c, n: function.apply(q, k, v, *gates(g, p, s), c, n, *options)


def fused_filter_case(function):
    shapes = (N, L, D), (N, L, D), (N, L, D), (N, L), (N, L), (N, 1), (N, D, D)
    options = COEFFICIENTS, 1e-6, 16.0, "float32"
    return operands(*shapes), lambda z, k, v, g, p, s, c: function.apply(z, k, v, *gates(g, p, s), c, *options)[0]


def compiled_filter_case(function):
    shapes = (N, L, D), (N, L, D), (N, L, D), (N, L), (N, L), (N, 1), (N, D, D)
    options = COEFFICIENTS, 1e-6, 16.0, True
    return operands(*shapes), lambda z, k, v, g, p, s, c: function.apply(z, k, v, *gates(g, p, s), c, *options)[0]


def compiled_memory_case(function):
    rows = 1  # of two chunks
    shapes = (N, L, D), (N, L, D), (N, L, D), (N, L), (N, L), (rows, 1), (rows, D, D), (rows, D)
    return operands(*shapes), lambda q, k, v, g, p, s, c, n: function.apply(q, k, v, *gates(g, p, s), c, n)


def system_of(k):
    return torch.eye(D, dtype=torch.float64).expand(N, D, D) + k.mT @ k


def solution_case(function):
    k, w = operands((N, L, D), (N, L, L))
    parts = [k, k, torch.ones(N, L, 1).double(), w.tril().abs(), torch.ones(N, L, 1).double(), system_of(k)]
    system = [x.detach() for x in parts]
    system += _preconditioner(*system)
    return operands((N, L, D)), lambda b: function.apply(b, torch.float64, 200, *system)


CASES = {
    "engine.chunk_filter._ChunkFilter": chunk_filter_case,
    "engine.chunk_filter._Reread": reread_case,
    "engine.chunk_memory._ChunkReads": reads_case,
    "engine.chunk_memory._ChunkWrites": lambda f: (
        operands((N, L, D), (N, L, D), (N, L)),
        lambda k, v, w: f.apply(k, v, w, torch.float64),
    ),
    "engine.chunk_states._Loop": lambda f: (operands((N, L), (N, L, D), (N, D)), f.apply),
    "engine.kernels.chunk_filter._ChunkFilter": fused_filter_case,
    "engine.kernels.cpu_filter._CompiledFilter": compiled_filter_case,
    "engine.kernels.cpu_layer._CompiledBlocks": lambda f: (
        operands((N, L, 16), (8, 2, 2)),
        lambda x, weight: f.apply(x, weight, 2),
    ),
    "engine.kernels.cpu_layer._CompiledConvolution": lambda f: (operands((N, L, D), (D, 2), (D,)), f.apply),
    "engine.kernels.cpu_memory._CompiledMemory": compiled_memory_case,
    "engine.kernels.chunk_reads._ChunkReads": lambda f: reads_case(f, "float32"),
    "engine.kernels.states._Scan": lambda f: (operands((N, L), (N, L, D), (N, D)), f.apply),
    "reads.composites._WithGradientsOf": None,
    "reads.composites._WithGradientsOfBoth": None,
    "reads.mesa._ByResidual": None,
    "reads.mesa._Solution": solution_case,
    "reads.singular_values._MapSingularValues": lambda f: (operands((N, D, D)), lambda x: f.apply(x, torch.tanh)[0]),
}


def test_no_function_by_hand_is_forgotten():
    found = functions_by_hand()
    wanted = {name for name in CASES if _can_interpret() or not _is_of_triton(name)}
    assert set(found) == wanted
    assert all(issubclass(kind, HandWritten) for kind in found.values())


def case_of(name: str, wrapped=lambda function: function):
    if _is_of_triton(name) and not _can_interpret():
        pytest.skip("needs Triton")
    function = wrapped(functions_by_hand()[name])
    if CASES[name] is not None:
        arguments, called = CASES[name](function)
        return arguments, where_kernels_run(called) if _is_of_triton(name) else called
    # Gradients that are not those of the result: with the argument itself in all places they are, up to a factor.
    system = [x.detach() for x in solution_case(None)[0]] if "_ByResidual" in name else None
    if system is not None:
        eye = torch.eye(D, dtype=torch.float64).expand(N, D, D)
        fixed = [torch.zeros(N, L, D).double()] * 2 + [torch.ones(N, L, 1).double(), torch.zeros(N, L, L).double()]
        fixed += [torch.ones(N, L, 1).double(), eye]
        fixed += _preconditioner(*fixed)
        return operands((N, L, D)), lambda x: 2 * function.apply(x, x.detach(), torch.float64, 99, *fixed)
    return operands((N, L, D)), lambda x: function.apply(x.detach(), x)


# The kernels are compared with what they stand for in test_chunk_memory.py and test_mlstm.py.
@pytest.mark.parametrize("name", [name for name in CASES if not _is_of_triton(name)])
def test_gradients_by_hand_are_those_of_finite_differences(name):
    arguments, function = case_of(name)
    if "_ByResidual" in name:  # the identity, whose gradient is halved by the system 2 I
        (grad,) = torch.autograd.grad(function(*arguments).sum(), arguments)
        torch.testing.assert_close(grad, torch.ones_like(grad))
    else:
        assert torch.autograd.gradcheck(function, arguments, atol=1e-6)


def test_they_are_computed_where_their_tensors_are(monkeypatch):
    """Kernels are launched on the current GPU, which need not be the one that has the tensors."""
    entered = []

    @contextlib.contextmanager
    def on(device):
        entered.append(device)
        yield

    monkeypatch.setattr(by_hand, "on", on)
    monkeypatch.setattr(by_hand, "without_autocast", lambda device: contextlib.nullcontext())
    x = torch.ones(2, 3, device="meta", dtype=torch.float64, requires_grad=True)
    y = _Doubled.of(torch.ones(2, 3, dtype=torch.float64, requires_grad=True), 2.0)
    y.sum().backward()
    assert entered == [torch.device("cpu")] * 2, "forward and gradient"
    _Doubled.apply(x, 2.0).sum().backward()
    assert entered[2:] == [torch.device("meta")] * 2
    monkeypatch.undo()
    assert by_hand.on(torch.device("cuda", 1)).idx == 1


class _Doubled(HandWritten):
    @staticmethod
    def forward(x, factor):
        return factor * x

    @staticmethod
    def saved(args, outputs):
        return (args[0],), (args[1],)

    @staticmethod
    def gradients(tensors, other, needs, grad):
        return other[0] * grad, None


@pytest.mark.parametrize("name", CASES)
def test_gradients_by_hand_are_right_once_and_refused_twice(name):
    """By each argument alone; by the first on every path that leads to a second derivative."""
    arguments, function = case_of(name)

    def loss(*tensors):
        results = function(*tensors)
        return sum(x.square().sum() for x in (results if isinstance(results, tuple) else (results,)))

    for i, x in enumerate(arguments):

        def of(x, i=i):
            return loss(*(x if i == j else y.detach() for j, y in enumerate(arguments)))

        (grad,) = torch.autograd.grad(of(x), x, create_graph=True)
        with pytest.raises(RuntimeError, match=TWICE):
            torch.autograd.grad(grad.sum(), x, retain_graph=True)
        if i > 0 or _is_of_triton(name):  # the interpreter is slow
            continue
        for refused in (
            lambda grad=grad: grad.sum().backward(),
            lambda x=x, of=of: torch.autograd.functional.hessian(of, x.detach()),
            lambda x=x, of=of: torch.func.grad(lambda x: torch.func.grad(of)(x).sum())(x.detach()),
            lambda x=x, of=of: meta_gradient(of, x),
        ):
            with pytest.raises(RuntimeError, match=TWICE):
                refused()
        with pytest.raises(NotImplementedError, match="no forward-mode"):
            torch.func.jvp(of, (x.detach(),), (torch.ones_like(x),))


class Operator:
    """In the place of a function by hand: what `torch.compile` is given for it, checked as it is called."""

    def __init__(self, function):
        self.operator = function._operator

    def apply(self, *args):
        args = [x.detach().requires_grad_(x.requires_grad) if isinstance(x, torch.Tensor) else x for x in args]
        torch.library.opcheck(self.operator, args)
        return self.operator(*args)


@pytest.mark.parametrize("name", [name for name in CASES if "reads.mesa" not in name and "singular" not in name])
def test_operators_keep_what_they_promise_the_compiler(name):
    """Schema, shapes and dtypes without numbers, and gradients, traced with shapes that are not known."""
    arguments, function = case_of(name, Operator)
    function(*arguments)


def meta_gradient(loss, x):
    """The gradient by a learning rate after one step of gradient descent."""
    rate = torch.tensor(0.1, dtype=torch.float64, requires_grad=True)
    start = x.detach().requires_grad_()
    (grad,) = torch.autograd.grad(loss(start), start, create_graph=True)
    stepped = start - rate * grad
    (grad,) = torch.autograd.grad(loss(stepped), stepped, create_graph=True)
    return torch.autograd.grad(grad.square().sum(), rate)


# Second derivatives of the cell


@pytest.mark.parametrize("form", ["chunkwise", pytest.param("fused", marks=pytest.mark.needs_triton)])
@pytest.mark.parametrize("read", ["raw", "one_step"])
def test_gradient_penalty_is_refused(read, form):
    inputs = [x.requires_grad_() for x in inputs_of().part(slice(0, 4))]
    for i, x in enumerate(inputs):
        grads = torch.autograd.grad(loss_of(cell(read, form))(*inputs), x, create_graph=True)
        with pytest.raises(RuntimeError, match=TWICE):
            torch.autograd.grad(grads[0].square().sum(), inputs[(i + 1) % 5])


@pytest.mark.parametrize("form", ["recurrent", "parallel"])
@pytest.mark.parametrize("empty", ["key", "gate"])
@pytest.mark.parametrize(
    "options", [{"read": NewtonSchulzRead(1)}, {"read": RLSRead()}, {"write": DeltaWrite()}], ids=str
)
def test_second_derivatives_hold_where_memory_and_key_are_empty(options, empty, form):
    """Those of a norm are no numbers at 0."""
    inputs = inputs_of().part(slice(0, 3))
    if empty == "key":
        inputs.k[:, :, 0] = 0
    else:
        inputs.igate_preact[:, :, 0] = -torch.inf
    inputs = [x.requires_grad_() for x in inputs]
    run = functools.partial(mlstm_sequence, form=form, **options)
    first = torch.autograd.grad(loss_of(run)(*inputs), inputs, create_graph=True)
    second = torch.autograd.grad(sum(x.square().sum() for x in first[:3]), inputs)
    assert all(x.isfinite().all() for x in second) and all(x.any() for x in second)


@pytest.mark.parametrize("form", ["recurrent", "parallel"])
@pytest.mark.parametrize("read", ["raw", "one_step"])
def test_second_derivatives_of_the_plain_forms(read, form):
    inputs = [x.requires_grad_() for x in inputs_of().part(slice(0, 3))]
    assert torch.autograd.gradgradcheck(cell(read, form), inputs)


# Checkpointing


@pytest.mark.parametrize("family", FAMILIES)
@every_read
def test_checkpoints_and_hooks_change_nothing(read, family):
    """To the last bit, whole and selective checkpointing, and saved tensors kept elsewhere."""
    inputs, function = inputs_of(family), cell(read)
    kept = [torch.ops.aten.bmm.default, torch.ops.aten.mm.default]
    selective = functools.partial(create_selective_checkpoint_contexts, kept)

    def with_hooks(*tensors):
        with torch.autograd.graph.saved_tensors_hooks(torch.clone, lambda x: x):
            return function(*tensors)

    h, grads = run_with_grads(function, inputs)
    for other in (
        lambda *x: checkpoint(function, *x, use_reentrant=False),
        lambda *x: checkpoint(function, *x, use_reentrant=False, context_fn=selective),
        with_hooks,
    ):
        got, got_grads = run_with_grads(other, inputs)
        assert torch.equal(got, h) and all(map(torch.equal, got_grads, grads))


@pytest.mark.needs_triton
def test_checkpoints_of_the_fused_form():
    inputs, function = inputs_of().part(slice(0, 6)), cell("one_step", "fused")
    h, grads = run_with_grads(function, inputs)
    got, got_grads = run_with_grads(lambda *x: checkpoint(function, *x, use_reentrant=False), inputs)
    assert torch.equal(got, h) and all(map(torch.equal, got_grads, grads))


# torch.func


@pytest.mark.parametrize("family", FAMILIES)
@every_read
def test_functional_transforms(read, family):
    inputs, function = inputs_of(family), cell(read)
    by_all = range(5)
    leaves = [x.clone().requires_grad_() for x in inputs]
    wanted = torch.autograd.grad(loss_of(function)(*leaves), leaves)
    got = torch.func.grad(loss_of(function), argnums=tuple(by_all))(*inputs)
    assert all(map(torch.equal, got, wanted))

    rows = inputs, inputs_of(seed=3)
    both = [torch.stack(pair) for pair in zip(*rows, strict=True)]
    mapped = torch.vmap(function)(*both)
    torch.testing.assert_close(mapped, torch.stack([function(*row) for row in rows]), rtol=1e-9, atol=1e-12)
    mapped = torch.vmap(torch.func.grad(loss_of(function), argnums=1))(*both)
    wanted = torch.stack([torch.func.grad(loss_of(function), argnums=1)(*row) for row in rows])
    torch.testing.assert_close(mapped, wanted, rtol=1e-8, atol=1e-10)


def test_jacobian():
    inputs = inputs_of().part(slice(0, 5))

    def last(v):
        return cell("five_steps")(*inputs._replace(v=v))[0, 0, -1]

    wanted = torch.autograd.functional.jacobian(last, inputs.v)
    torch.testing.assert_close(torch.func.jacrev(last)(inputs.v), wanted, rtol=1e-9, atol=1e-12)
    with pytest.raises(RuntimeError, match="vectorize=True.*jacrev"):
        torch.autograd.functional.jacobian(last, inputs.v, vectorize=True)


def test_forward_mode_of_the_recurrent_form():
    inputs = inputs_of().part(slice(0, 4))
    h, tangent = torch.func.jvp(
        cell("five_steps", "recurrent"), tuple(inputs), tuple(inputs_of(seed=1).part(slice(0, 4)))
    )
    step = 1e-6
    moved = cell("five_steps", "recurrent")(
        *(x + step * d for x, d in zip(inputs, inputs_of(seed=1).part(slice(0, 4)), strict=True))
    )
    torch.testing.assert_close((moved - h) / step, tangent, rtol=1e-3, atol=1e-3)


# Tracing


class Cell(torch.nn.Module):
    def __init__(self, read: str):
        super().__init__()
        self.read = read

    def forward(self, *tensors):
        return cell(self.read)(*tensors)


@pytest.mark.parametrize("read", ["raw", "one_step"])
def test_what_is_exported_gives_the_same(read):
    inputs, other = (x.to(torch.float32) for x in (inputs_of(), inputs_of("opposite_every_pair_open")))
    program = torch.export.export(Cell(read), tuple(inputs)).module()
    for x in (inputs, other):  # that chunks are read again is decided as it runs
        torch.testing.assert_close(program(*x), cell(read)(*x), rtol=1e-4, atol=1e-5)


def test_nothing_of_a_trace_stays_behind():
    """A read that is first met while PyTorch traces, and fails to, is as good as ever afterwards."""
    read = NewtonSchulzRead(steps=4, eps=1.25e-6)  # of this test alone: what it needs is computed once

    def failing(*tensors):
        mlstm_sequence(*tensors, read=read)
        raise ArithmeticError

    inputs = tuple(inputs_of().to(torch.float32))
    module = torch.nn.Module()
    module.forward = failing
    with pytest.raises(ArithmeticError):
        torch.export.export(module, inputs)
    assert isinstance(read.coefficients(torch.float32)[0], float)
    assert read.working_dtype(torch.float32) == torch.float32
    assert torch.isfinite(mlstm_sequence(*inputs, read=read)).all()


# Compiling


def model_of(read: str, **settings):
    config = orthonar.MLSTMConfig(vocab_size=11, embedding_dim=8, num_heads=2, read=READS[read], **settings)
    return orthonar.MLSTMModel(config, generator=torch.Generator().manual_seed(0))


def tokens_of(length: int):
    return torch.randint(11, (2, length), generator=torch.Generator().manual_seed(length))


def test_compiled_model_is_one_graph_and_the_model():
    model, tokens = model_of("five_steps"), tokens_of(20)
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    wanted, got = (
        torch.autograd.grad(run(tokens).square().sum(), list(model.parameters())) for run in (model, compiled)
    )
    for a, b in zip(got, wanted, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)


def test_a_compiled_read_has_the_settings_that_it_was_made_with():
    """They go by as JSON, which makes lists of tuples."""
    read = OddPolynomialRead(c=(1.2, -0.4, 0.2))
    compiled = torch.compile(lambda *x: mlstm_sequence(*x, read=read), backend="eager", fullgraph=True)
    assert torch.equal(compiled(*inputs_of()), mlstm_sequence(*inputs_of(), read=read))
    with pytest.raises(ValueError, match=r"^c must be a value that cannot change, not \[1.5, -0.5\]: a tuple\?"):
        OddPolynomialRead(c=[1.5, -0.5])


def test_settings_that_are_no_text_keep_a_read_out_of_graphs():
    """A function once came back from its text as that text."""
    read = FunctionRead(torch.sin)
    compiled = torch.compile(lambda *x: mlstm_sequence(*x, read=read), backend="eager")
    assert torch.equal(compiled(*inputs_of()), mlstm_sequence(*inputs_of(), read=read))
    traceable = NewtonSchulzRead(), OddPolynomialRead(), MatrixStraightThroughRead()
    assert all(read.traceable for read in traceable)
    assert not read.traceable and not MatrixStraightThroughRead(read).traceable


def test_compiled_model_takes_all_lengths_by_few_graphs():
    """One for lengths that fill their chunks, of 16 or 32 positions, and one for the others."""
    model, counter = model_of("five_steps"), CompileCounter()
    compiled = torch.compile(model, backend=counter, fullgraph=True, dynamic=True)
    for length in (40, 96, 63, 64, 77):
        torch.testing.assert_close(compiled(tokens_of(length)), model(tokens_of(length)))
    assert counter.frame_count == 2


def test_compiled_steps_are_few_graphs():
    """From nothing, from a first state, and from states after any number of tokens."""
    model, counter = model_of("five_steps"), CompileCounter()
    compiled, state = torch.compile(model.step, backend=counter, fullgraph=True), None
    tokens, logits = tokens_of(5), []
    for token in tokens.unbind(1):
        y, state = compiled(token, state)
        logits.append(y)
    torch.testing.assert_close(torch.stack(logits, 1), model(tokens), rtol=1e-4, atol=1e-5)
    assert counter.frame_count <= 3


def test_graphs_reread_chunks_whose_writes_cancel():
    """That there are such chunks is found as the graph runs: the others' graph is the same."""
    compiled = torch.compile(cell("five_steps"), backend="aot_eager", fullgraph=True)
    for family in FAMILIES:
        h, grads = run_with_grads(cell("five_steps"), inputs_of(family))
        got, got_grads = run_with_grads(compiled, inputs_of(family))
        for a, b in zip((got, *got_grads), (h, *grads), strict=True):
            assert (a - b).norm() <= 1e-10 * b.norm()


def test_what_cannot_be_traced_is_one_break():
    """A read that looks at its numbers: the cell is called between graphs."""
    counter, inputs = CompileCounter(), inputs_of()
    compiled = torch.compile(lambda *x: 2 * cell("mesa")(*x) + 1, backend=counter)
    assert torch.equal(compiled(*inputs), 2 * cell("mesa")(*inputs) + 1)
    assert counter.frame_count <= 2


@pytest.mark.parametrize("read", ["raw", "five_steps"])
@pytest.mark.parametrize("mode", ["real", "symbolic"])
def test_what_is_written_down_holds_for_other_numbers(read, mode):
    """Compiled loops are no operators of PyTorch's: what they compute must not go down as a constant."""
    graph = make_fx(cell(read), tracing_mode=mode)(*inputs_of(seed=1))
    assert torch.equal(graph(*inputs_of(seed=2)), cell(read)(*inputs_of(seed=2)))


def test_second_derivatives_of_graphs_are_refused():
    inputs = [x.requires_grad_() for x in inputs_of()]
    loss = loss_of(torch.compile(cell("raw"), backend="eager", fullgraph=True))(*inputs)
    (grad,) = torch.autograd.grad(loss, inputs[1], create_graph=True)
    with pytest.raises(RuntimeError, match=TWICE):
        torch.autograd.grad(grad.sum(), inputs[2])


def test_traces_of_torch_jit_are_refused():
    """They would hold for all inputs what is decided by the numbers of one, such as which writes cancel."""
    with pytest.raises(RuntimeError, match="cannot be traced by torch.jit"), warnings.catch_warnings():
        warnings.simplefilter("ignore", torch.jit.TracerWarning)
        torch.jit.trace(cell("five_steps"), inputs_of())
