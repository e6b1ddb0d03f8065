"""The formulas against counted products, the command on tiny sizes, and its records as tables."""

import itertools
import math
import subprocess
import sys

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from benchmarks import cost as command
from benchmarks import operations
from benchmarks.steps import CONTENDERS
from orthonar import MLSTM, MLSTMConfig, MLSTMModel, ModelConfig, NewtonSchulzRead, RawRead, mlstm_sequence
from orthonar.engine.backends import numba_version
from orthonar.engine.kernels import cpu_filter, cpu_layer, cpu_memory
from orthonar.engine.kernels.cpu_layer import compiled_blocks
from orthonar.paths import project_root
from orthonar.report.figures import cost as cost_plots
from orthonar.report.published import COSTS
from orthonar.report.tables import cost
from orthonar.xlstm import StockModel

ROOT = project_root()


class Counted(TorchDispatchMode):
    """Counts the operations of products and depthwise convolutions, in-place and out= variants included.

    `torch.utils.flop_counter` does not see the in-place ones, and takes a depthwise convolution's backward for a dense
    one.
    """

    total = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        name = func.overloadpacket.__name__.removesuffix("_")
        if name in ("mm", "bmm", "addmm", "baddbmm"):
            left = args[0 if name in ("mm", "bmm") else 1]
            self.total += 2 * out.numel() * left.shape[-1]
        elif name == "convolution":
            self.total += 2 * out.numel() * args[1][0].numel()
        elif name == "convolution_backward":
            grad_out, _, weight = args[:3]
            self.total += 2 * 2 * grad_out.numel() * weight[0].numel()
        return out


def counted(function) -> int:
    with Counted() as mode:
        function()
    return mode.total


def degree_of(steps, dtype=torch.float32):
    return len(NewtonSchulzRead(steps=steps).coefficients(dtype)) - 1


BATCH, LENGTH, HEADS, SIZE = 3, 37, 2, 5


class CountedLoops:
    """The loops that Numba compiles, run by Python instead, with NumPy for their products, which are counted."""

    def __init__(self, monkeypatch):
        self.total = 0
        for module in (cpu_memory, cpu_filter, cpu_layer):
            for name in [name for name in vars(self.__class__) if name in vars(module)]:
                monkeypatch.setattr(module, name, getattr(self, name))
            for name, function in list(vars(module).items()):
                if hasattr(function, "py_func") and function.__module__ == module.__name__:
                    if name not in vars(self.__class__):
                        monkeypatch.setattr(module, name, function.py_func)

    def transpose_product(self, m, x, y, sized):
        y[:] = m.T @ x
        self.total += 2 * m.size

    def add_outer_products(self, p, r, decay, m, sized):
        m[:] = decay * m + p.T @ r
        self.total += 2 * len(p) * m.size

    def write_and_read(self, old, new, decay, left, right, query, out, sized):
        new[:] = decay * old + np.outer(left, right)
        out[:] = new.T @ query
        self.total += 4 * new.size

    def write_read_and_compare(self, old, new, decay, left, right, query, out, other, sized):
        self.write_and_read(old, new, decay, left, right, query, out, sized)
        self.total += 2 * new.size
        return (new * other).sum()

    def symmetric_products(self, g, a, x, y, out_x, out_y, sized):
        out_x[:], out_y[:] = (g + g.T) @ x, (g + g.T) @ y
        self.total += 10 * g.size
        return (g * a).sum()

    def read_compare_and_write(self, g, new, c, decay, key, value, right, out_value, out_key, sized):
        out_value[:], out_key[:], compared = g.T @ key, g @ value + c @ right, (g * c).sum()
        new[:] = decay * g + np.outer(key, right)
        self.total += 10 * g.size
        return compared

    def block_product(self, a, x, y, blocked, sized):
        y[:] = (a.reshape(len(a), -1, len(a)) * x.reshape(-1, len(a)).T[:, :, None]).sum(0).ravel()
        self.total += 2 * a.size

    def add_block_outer_product(self, a, x, y, blocked, sized):
        a += (x.reshape(-1, len(a)).T[:, :, None] * y.reshape(-1, len(a))).reshape(a.shape)
        self.total += 2 * a.size

    def scale(self, factor, x, out, sized):
        out[:] = factor * x

    def add_scaled(self, x, factor, y, out, sized):
        out[:] = x + factor * y

    def dot(self, x, y, sized):
        return x @ y

    def trace(self, m, sized):
        return np.trace(m)

    def next_term(self, a, factor, terms, m, out, row, weight, total, sized):
        out[row] = factor * (a @ terms[m]) - 2 * terms[m] - terms[max(m - 1, 0)]
        total += weight * out[row]
        self.total += 2 * a.size

    def next_adjoint(self, a, factor, adjoints, m, weight, source, terms, compared, sized):
        product = a @ adjoints[m + 1]
        adjoints[m] = weight * source + factor * product - 2 * adjoints[m + 1] - adjoints[m + 2]
        compared += product * terms[m]
        self.total += 2 * a.size

    def read_and_write(self, old, new, decay, left, right, query, out, sized):
        out[:] = decay * old.T @ query
        new[:] = decay * old + np.outer(left, right)
        self.total += 4 * new.size

    def write_both_ways(self, old, new, decay, x, y, sized):
        new[:] = decay * old + np.outer(x, y) + np.outer(y, x)
        self.total += 4 * new.size

    def _gram(self, c, a, sized):
        a[:] = c.T @ c
        self.total += 2 * c.size * len(c)

    def _through_gram(self, c, of_a, of_c, both, row, sized):
        of_c += c @ (of_a + of_a.T)
        self.total += 2 * c.size * len(c)


@pytest.mark.parametrize(("steps", "length"), [(None, 40), (None, 9), (1, 40), (3, 9)])
def test_compiled_cell(steps, length, monkeypatch):
    monkeypatch.setattr("orthonar.engine.chunk_filter._LARGEST_CANCELLATION", math.inf)  # no memory is formed anew
    generator = torch.Generator().manual_seed(0)
    shape = (1, 2, length, 16)
    new = {"generator": generator, "dtype": torch.float64}
    x = [torch.randn(s, **new).requires_grad_() for s in (*[shape] * 3, *[shape[:3]] * 2)]
    probe = torch.randn(shape, **new)
    read = RawRead() if steps is None else NewtonSchulzRead(steps=steps)

    def grads():
        return torch.autograd.grad(mlstm_sequence(*x, read=read), x, probe)

    compiled = grads()
    loops = CountedLoops(monkeypatch)
    torch.testing.assert_close(grads(), compiled)
    degree = None if steps is None else degree_of(steps, torch.float64)
    assert loops.total == operations.compiled_cell(1, length, 2, 16, degree)


def test_compiled_projections(monkeypatch):
    generator = torch.Generator().manual_seed(0)
    x, weight = (torch.randn(s, generator=generator).requires_grad_() for s in ((2, 9, 64), (16, 4, 4)))

    def results():
        y = compiled_blocks(x, weight, 2)
        return y, *torch.autograd.grad(y.square().sum(), (x, weight))

    compiled = results()
    loops = CountedLoops(monkeypatch)
    torch.testing.assert_close(results(), compiled)
    config = ModelConfig(8, 32, mixer=MLSTM(num_heads=2))
    of_projections = [operations.layers(config, 2, 9, compiled=c) for c in (True, False)]
    assert 3 * loops.total == of_projections[0] - (of_projections[1] - 3 * 2 * 9 * 6 * 64 * 32)


class TestCell:
    """Outputs and gradients of the cell alone, in float64, which does not pad the head size."""

    def count(self, read, form, length=LENGTH, chunk_size=None):
        generator = torch.Generator().manual_seed(0)
        shape = (BATCH, HEADS, length, SIZE)
        new = {"generator": generator, "dtype": torch.float64}
        x = [torch.randn(s, **new).requires_grad_() for s in (*[shape] * 3, *[shape[:3]] * 2)]
        call = {"read": read, "form": form, "chunk_size": chunk_size}
        # Not all positions alike: a sum's gradients are views of one number, and products with them are cut short.
        probe = torch.randn(shape, **new)
        return counted(lambda: torch.autograd.grad(mlstm_sequence(*x, **call), x, probe))

    @pytest.mark.parametrize("steps", [0, 1, 4])
    def test_plain(self, steps):
        read = NewtonSchulzRead(steps=steps)
        assert self.count(read, "parallel") == operations.plain_cell(BATCH, LENGTH, HEADS, SIZE, steps)

    @pytest.mark.parametrize(("length", "chunk_size"), [(LENGTH, None), (LENGTH, 7), (9, 16), (1, None)])
    def test_chunkwise_raw(self, length, chunk_size, monkeypatch):
        monkeypatch.setenv("ORTHONAR_NUMBA", "0")  # what is counted are PyTorch's operators
        count = self.count(RawRead(), "chunkwise", length, chunk_size)
        assert count == operations.chunkwise_cell(BATCH, length, HEADS, SIZE, None, chunk_size)

    @pytest.mark.parametrize(("steps", "length", "chunk_size"), [(1, LENGTH, None), (3, LENGTH, 7), (5, 9, 16)])
    def test_chunkwise_filter(self, steps, length, chunk_size, monkeypatch):
        monkeypatch.setenv("ORTHONAR_NUMBA", "0")
        monkeypatch.setattr("orthonar.engine.chunk_filter._LARGEST_CANCELLATION", math.inf)  # no chunk is read again
        count = self.count(NewtonSchulzRead(steps=steps), "chunkwise", length, chunk_size)
        degree = degree_of(steps, torch.float64)
        assert count == operations.chunkwise_cell(BATCH, length, HEADS, SIZE, degree, chunk_size)


@pytest.mark.parametrize(("width", "heads", "vocab_size"), [(30, 4, 21), (30, 2, 17)])
@pytest.mark.parametrize("contender", ["plain", "stock", "raw", "orthogonalized"])
def test_whole_model(contender, width, heads, vocab_size, monkeypatch):
    """Layers and cell together, in float32, at head sizes that need no padding."""
    monkeypatch.setenv("ORTHONAR_NUMBA", "0")  # what is counted are PyTorch's operators
    monkeypatch.setattr("orthonar.engine.chunk_filter._LARGEST_CANCELLATION", math.inf)
    read = RawRead() if contender in ("stock", "raw") else NewtonSchulzRead(steps=3)
    form = "parallel" if contender == "plain" else "chunkwise"
    config = MLSTMConfig(vocab_size, width, heads, read=read, form=form)
    model = StockModel(config, LENGTH) if contender == "stock" else MLSTMModel(config)
    tokens = torch.randint(vocab_size, (BATCH, LENGTH), generator=torch.Generator().manual_seed(0))
    probe = torch.randn(BATCH, LENGTH, vocab_size)
    count = counted(lambda: model(tokens).backward(probe))
    assert count == operations.step_operations(contender, config, BATCH, LENGTH, degree_of(3), 3)


def test_operations_are_linear_in_length_but_for_the_stock_layer():
    config = MLSTMConfig()
    for contender in ("plain", "raw", "orthogonalized", "stock"):
        counts = [operations.step_operations(contender, config, 4, length, 23, 5) for length in (512, 1024, 2048)]
        growth = [b / a for a, b in itertools.pairwise(counts)]
        if contender == "stock":
            assert growth[1] > growth[0] > 2
        else:
            assert growth == pytest.approx([2, 2], rel=1e-3)


def test_passes_of_the_study():
    assert operations.passes(degree_of(5)) == 49


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The whole command on tiny sizes, in its own process as users start it: folder of the records, what it printed."""
    folder = tmp_path_factory.mktemp("cost")
    call = [sys.executable, "-m", "benchmarks.cost", "--lengths", "16", "32", "--batch", "2", "--repeats", "2"]
    call += ["--steps-of-newton-schulz", "1", "5", "--threads", "1", "--vocab-size", "40", "--results", str(folder)]
    done = subprocess.run(call, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    # What a CUDA build of torch says of a machine without a GPU is not ours.
    assert [line for line in done.stderr.splitlines() if "No CUDA runtime is found" not in line] == []
    return folder, done.stdout


class TestCommand:
    def test_every_contender_is_measured(self, run):
        [record] = cost.read_records(run[0])
        table = cost.table([record])
        assert set(table["left_out"]) == {""}
        assert (table["low"] > 0).all() and (table["low"] <= table["ms"]).all() and (table["ms"] <= table["high"]).all()
        steps = table[table["what"] == "step"]
        assert len(steps) == 4 + 6 and set(steps["contender"]) == set(CONTENDERS)
        assert (steps.loc[steps["steps"] != 1, "mib"] > 0).all()
        assert set(cost.several_steps(table)["length"]) == {32}
        assert all(len(row["seconds"]) == 2 for row in record["rows"])

    def test_operations_are_those_of_the_formulas(self, run):
        steps = cost.table(cost.read_records(run[0])).query("what == 'step' and contender == 'orthogonalized'")
        for row in steps.itertuples():
            sizes = MLSTMConfig(40), 2, row.length - 1, int(row.degree)
            wanted = operations.step_operations("orthogonalized", *sizes, compiled=numba_version() is not None)
            assert row.gflop == pytest.approx(wanted / 1e9)

    def test_says_what_stands_behind_the_numbers(self, run):
        [record] = cost.read_records(run[0])
        for text in (cost.describe(record), run[1]):
            assert record["device_name"] in text and torch.__version__ in text and "Gflop/s" in text

    def test_a_second_run_is_appended(self, run, monkeypatch, capsys):
        [record] = cost.read_records(run[0])
        path = run[0] / "cost-cpu.jsonl"
        before = path.read_bytes()
        later = record | {"started": "2100-01-01T00:00:00+00:00"}
        monkeypatch.setattr(command, "measure", lambda settings, record: record.update(later))
        command.main(["--results", str(run[0]), "--threads", "1"])
        assert path.read_bytes().startswith(before)
        assert cost.newest(cost.read_records(run[0]))["cpu"]["started"].startswith("2100")
        path.write_bytes(before)

    def test_interrupted_it_keeps_what_is_measured(self, run, tmp_path, monkeypatch, capsys):
        [record] = cost.read_records(run[0])

        def interrupted(settings, beginning):
            beginning |= {"peaks": record["peaks"], "rows": rows}
            raise KeyboardInterrupt

        monkeypatch.setattr(command, "measure", interrupted)
        rows = record["rows"]
        command.main(["--results", str(tmp_path), "--threads", "1"])
        assert [kept["rows"] for kept in cost.read_records(tmp_path)] == [rows]
        rows = []
        with pytest.raises(SystemExit, match="nothing to append"):
            command.main(["--results", str(tmp_path), "--threads", "1"])
        assert len(cost.read_records(tmp_path)) == 1

    def test_started_from_a_notebook_its_failure_is_seen(self, tmp_path, capsys):
        with pytest.raises(subprocess.CalledProcessError):
            cost.run_benchmark("tpu", tmp_path)
        assert "--device must be cpu or cuda" in capsys.readouterr().out

    def test_list_measures_nothing(self, tmp_path, capsys):
        command.main(["--list", "--lengths", "64", "2048", "--threads", "1", "--results", str(tmp_path / "none")])
        printed = capsys.readouterr().out
        assert "length 2048, batch 2" in printed and "stock: not measured beyond length 1024" in printed
        assert not list(tmp_path.iterdir())

    @pytest.mark.parametrize(
        ("arguments", "named"),
        [
            ("--lengths 15", "seq_len"),
            ("--lengths 64 64", "lengths"),
            ("--device tpu", "--device"),
            ("--device cuda:99", "device"),
            ("--repeats 0", "repeats"),
            ("--threads 0", "threads"),
            ("--batch 0", "batch_size"),
            ("--vocab-size 3", "vocab_size"),
            ("--steps-of-newton-schulz -1", "steps"),
            ("--results /dev/null", "/dev/null"),
        ],
    )
    def test_bad_options_are_one_error_before_anything_is_measured(self, arguments, named, monkeypatch, capsys):
        monkeypatch.setattr(command, "measure", lambda *_: pytest.fail("measured"))
        with pytest.raises(SystemExit) as stopped:
            command.main(arguments.split())
        assert stopped.value.code == 2
        assert named in capsys.readouterr().err.splitlines()[-1]

    def test_what_fails_is_left_out_with_its_reason(self, monkeypatch, capsys):
        def prepare(case, settings):
            if case.contender == "plain":
                raise torch.OutOfMemoryError("no\nmemory")
            return lambda: None, None

        monkeypatch.setattr(command, "prepare", prepare)
        settings = command.parse(["--lengths", "16", "--list"])
        rows = command.measure_group(command.cases(settings)[16], settings)
        plain = [row for row in rows if row["contender"] == "plain"]
        assert {row["skipped"] for row in plain} == {"OutOfMemoryError: no memory"}
        assert all(row["seconds"] for row in rows if row not in plain)
        assert "left out: OutOfMemoryError" in capsys.readouterr().out

    def test_a_summary_of_a_gpu_on_which_something_was_left_out(self, run, capsys):
        """As it is measured there; what is wanted is said of what there is."""
        [record] = cost.read_records(run[0])
        rows = [
            row | {"length": 768}
            for row in record["rows"]
            if row["length"] == 32 and row["contender"] == "orthogonalized"
        ]
        sizes = {"batch": 64, "vocab_size": 96, "lengths": [768]}
        command.print_summary(record | {"device": "cuda", "rows": rows, "settings": record["settings"] | sizes})
        printed = capsys.readouterr().out
        assert "orthogonalized step (ms)" in printed and "sampling, share of the step" not in printed


class TestRecords:
    def test_damaged_lines_are_reported(self, run, tmp_path):
        good = (run[0] / "cost-cpu.jsonl").read_text()
        newer = good.replace(f'"schema": {cost.SCHEMA}', f'"schema": {cost.SCHEMA + 1}')
        (tmp_path / "cost-cpu.jsonl").write_text("{}\n" + good + good[:100] + "\n[]\n" + newer)
        damaged = []
        assert len(cost.read_records(tmp_path, damaged)) == 1
        assert [d.line for d in damaged] == [1, 3, 4, 5]
        assert "newer" in damaged[-1].reason
        with pytest.warns(UserWarning, match="skipped"):
            cost.read_records(tmp_path)

    def test_nothing_recorded(self, tmp_path):
        assert cost.read_records(tmp_path / "none") == []
        assert cost.table([]).empty and cost.summary([]).empty and cost.factors([]).empty
        beside = cost.beside_published([]).set_index("device")
        assert set(beside.index) == {"L4", "A100", "not run yet"}
        assert beside.loc["L4", "recomputed"] == "116 and 734 to 744"

    def test_beside_the_published(self, run):
        [record] = cost.read_records(run[0])
        published = COSTS[1]
        seconds = {"raw": [0.25, 0.5, 0.75], "orthogonalized": [1.0, 1.0, 4.0]}
        rows = [
            row | {"length": published.seq_len, "batch": published.batch_size, "seconds": seconds[row["contender"]]}
            for row in record["rows"]
            if row["what"] == "step" and row["contender"] in seconds and row["length"] == 16
        ]
        settings = record["settings"] | {"vocab_size": published.vocab_size}
        shown = cost.beside_published([record | {"rows": rows, "settings": settings}])
        here = shown[shown["device"] == record["device_name"]].iloc[0]
        assert (here["baseline"], here["orthogonalized"], here["ratio"]) == (1000, 2000, 2)

    def test_the_answer_is_of_the_longest_length(self, run):
        records = cost.read_records(run[0])
        [sentence] = cost.answer(records)
        steps = cost.table(records).query("what == 'step' and (steps == 5 or steps.isna())")
        ms = steps.pivot(index="length", columns="contender", values="ms")
        ms = ms.dropna(subset=["plain", "orthogonalized", "raw"]).sort_index().iloc[-1]
        assert f"length {ms.name:,}, " in sentence
        assert ("with Numba" in sentence) == ("numba" in records[-1]["versions"])
        assert f"is {ms['plain'] / ms['orthogonalized']:.0f} times faster" in sentence
        assert f"takes {ms['orthogonalized'] / ms['raw']:.1f} times as long" in sentence

    def test_figures_draw_what_there_is(self, run):
        records = cost.read_records(run[0])
        for recorded, panels in ((records, ["CPU"]), ([], [""])):
            for draw in (
                cost_plots.time_against_length, cost_plots.memory_against_length,
                cost_plots.against_newton_schulz, cost_plots.share_of_peak,
            ):  # fmt: skip
                figure = draw(cost.table(recorded))
                figure.draw_without_rendering()
                titles = [ax.get_title().split(":")[0] for ax in figure.axes if ax.get_title() or not recorded]
                titled = list(dict.fromkeys(titles))
                said = [text.get_text() for ax in figure.axes for text in ax.texts]
                assert titled == panels and ("not run yet" in said) == (not recorded), "a panel for what was measured"
                plt.close(figure)

    def test_times_are_drawn_for_a_sequence_of_the_batch(self, run):
        table = cost.table(cost.read_records(run[0]))
        figure = cost_plots.time_against_length(table)
        drawn = {c.get_label(): c.lines[0].get_ydata() for c in figure.axes[0].containers}
        raw = table.query("what == 'step' and contender == 'raw'").sort_values("length")
        assert drawn["raw, fast form"] == pytest.approx(raw["ms"].to_numpy() / 2)
        plt.close(figure)
