"""The recipe: settings checked, runs repeatable and paired, divergence recorded."""

import contextlib
import math
import subprocess
import sys
from dataclasses import replace

import pytest
import torch

from orthonar import NewtonSchulzRead, NoisyRecall, RawRead, RunConfig, evaluate, train
from orthonar.engine import chunkwise
from orthonar.mlstm.layer import small_init_std
from orthonar.mlstm.writes import WriteBack
from orthonar.model import MLSTMModel
from orthonar.paths import project_root
from orthonar.reads.composites import BlendRead
from orthonar.reads.mesa import MesaRead
from orthonar.study.records import RunStore, run_table
from orthonar.training.environment import revision
from orthonar.training.record import RunRecord, identity
from orthonar.training.step import (
    GraphStep,
    ScheduledOnDevice,
    TrainingStep,
    generator,
    make_training_step,
    scheduled_rate,
    takes_graph,
)
from orthonar.training.train import Run, fit_together, train_together

TINY = {
    "vocab_size": 12,
    "seq_len": 16,
    "noise_vocab_size": 4,
    "embedding_dim": 8,
    "num_heads": 2,
    "batch_size": 4,
    "steps": 6,
    "eval_every": 4,
    "validation_sequences": 8,
}


def without_times(record: RunRecord) -> dict:
    trace = [(e.step, e.accuracy, e.loss, e.train_loss) for e in record.trace]
    return {"settings": record.settings, "trace": trace, "outcome": record.outcome, "versions": record.versions}


@pytest.mark.parametrize("read", [RawRead(), NewtonSchulzRead()], ids=["raw", "orthogonalized"])
def test_the_same_seed_gives_the_same_record_and_another_another(read):
    first, second = (train(RunConfig(read=read, **TINY)) for _ in range(2))
    assert without_times(first) == without_times(second)
    assert without_times(train(RunConfig(read=read, seed=1, **TINY)))["trace"] != without_times(first)["trace"]
    assert [e.step for e in first.trace] == [4, 6]
    assert RunRecord.from_json(first.to_json()) == first


def test_the_global_random_state_is_left_alone_and_does_not_matter():
    torch.manual_seed(1)
    state = torch.get_rng_state()
    first = train(RunConfig(**TINY))
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(2)
    assert without_times(train(RunConfig(**TINY))) == without_times(first)


def test_reads_start_from_the_same_weights_and_see_the_same_batches(monkeypatch):
    seen = {}
    for read in (RawRead(), NewtonSchulzRead()):
        seen[read] = tokens = []
        forward = MLSTMModel.forward

        def spy(self, x, tokens=tokens, forward=forward):
            tokens.append((x.clone(), [p.detach().clone() for p in self.parameters()] if not tokens else None))
            return forward(self, x)

        with monkeypatch.context() as patch:
            patch.setattr(MLSTMModel, "forward", spy)
            train(RunConfig(read=read, **TINY))
    raw, orthogonalized = seen.values()
    assert len(raw) == len(orthogonalized) == 6 + 2 * 2
    assert all(torch.equal(a, b) for (a, _), (b, _) in zip(raw, orthogonalized, strict=True))
    assert all(torch.equal(a, b) for a, b in zip(raw[0][1], orthogonalized[0][1], strict=True))


def test_the_recipe_by_hand():
    """Two steps written out with plain PyTorch give the same weights, and each its loss."""
    config = RunConfig(**TINY | {"steps": 2, "eval_every": 1, "lr": 0.01, "grad_clip": 0.5})
    (run,) = fit_together([config])
    model, losses = run.model, []
    twin = MLSTMModel(config.model, generator=generator(0, "weights"))
    batches = generator(0, "batches")
    optimizer = torch.optim.AdamW(twin.parameters(), lr=0.01, betas=(0.9, 0.999), weight_decay=0.01)
    for step in range(2):
        for group in optimizer.param_groups:
            group["lr"] = 0.01 * 0.5 * (1 + math.cos(math.pi * step / 2))
        tokens, targets = config.task.sample(4, batches)
        logits = twin(tokens)
        loss = -logits.log_softmax(-1).gather(-1, targets[..., None]).mean()
        losses.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        norm = torch.stack([p.grad.norm() for p in twin.parameters()]).norm()
        assert norm > 0.5, "the test means to see the clipping"
        for p in twin.parameters():
            p.grad *= 0.5 / norm
        optimizer.step()
    assert [line.train_loss for line in run.trace] == pytest.approx(losses, rel=1e-5)
    for (name, p), q in zip(model.named_parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(p, q, atol=2e-6, rtol=1e-4, msg=lambda m, name=name: f"{name}: {m}")


def test_the_learning_rate_falls_to_nothing_or_stays():
    config = RunConfig(**TINY, lr=0.01)
    assert [scheduled_rate(config, step) for step in (0, 3)] == pytest.approx([0.01, 0.005])
    assert 0 < scheduled_rate(config, 5) < 0.001
    assert {scheduled_rate(replace(config, schedule="constant"), step) for step in range(6)} == {0.01}


def test_accuracy_counts_scored_positions_alone():
    task = RunConfig(**TINY).task

    class Oracle(torch.nn.Module):
        """Right at every scored position of the first batch, wrong at those of the second."""

        def __init__(self, batches):
            super().__init__()
            self.targets = [batches[0][1], batches[1][1] + 1]

        def forward(self, tokens):
            return torch.nn.functional.one_hot(self.targets.pop(0).clamp_min(0), 13)[..., :12].float()

    batches = task.validation_set(0, 8, 4)
    scored = [(targets != -100).sum().item() for _, targets in batches]
    accuracy, loss = evaluate(Oracle(batches), batches)
    assert accuracy == pytest.approx(scored[0] / sum(scored))
    right, wrong = math.log(11 + math.e) - 1, math.log(11 + math.e)
    assert loss == pytest.approx((scored[0] * right + scored[1] * wrong) / sum(scored), rel=0.02)


def test_a_loss_that_turns_nan_ends_the_run_as_diverged(monkeypatch):
    forward = MLSTMModel.forward
    calls = []

    def spoilt(self, tokens):
        calls.append(1)
        return forward(self, tokens) * (float("nan") if len(calls) == 2 else 1)

    monkeypatch.setattr(MLSTMModel, "forward", spoilt)
    record = train(RunConfig(**TINY | {"steps": 100}))
    assert record.outcome == "diverged"
    assert [e.step for e in record.trace] == [4]
    assert record.trace[0].accuracy is record.trace[0].loss is record.trace[0].train_loss is None
    assert RunRecord.from_json(record.to_json()) == record


def test_every_evaluation_is_reported_as_it_comes():
    lines = []
    record = train(RunConfig(**TINY), on_evaluation=lines.append)
    assert lines == record.trace


def test_settings_survive_a_record():
    config = RunConfig(**TINY, read=NewtonSchulzRead(steps=3))
    assert RunConfig.from_settings(config.settings()) == config


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("vocabsize", 80),
        ("Seed", 1),
        ("seq_len", 15),
        ("vocab_size", 5),
        ("frac_noise", 1.5),
        ("steps", 0),
        ("steps", 2.0),
        ("steps", True),
        ("batch_size", 0),
        ("eval_every", 0),
        ("validation_sequences", 0),
        ("seed", -1),
        ("lr", 0.0),
        ("lr", math.nan),
        ("lr", "0.1"),
        ("grad_clip", 0),
        ("weight_decay", -0.1),
        ("beta1", 1.0),
        ("schedule", "linear"),
        ("num_heads", 3),
        ("embedding_dim", 0),
        ("form", "fast"),
        ("read", "newton_schulz"),
        ("device", "nowhere"),
    ],
)
def test_impossible_settings_are_named_before_any_compute(setting, value):
    with pytest.raises(ValueError, match=setting):
        RunConfig(**TINY | {setting: value})


def test_a_device_may_be_pytorchs():
    assert RunConfig(**TINY | {"device": torch.device("cpu")}) == RunConfig(**TINY | {"device": "cpu"})


def test_a_device_is_looked_for_when_training_begins():
    config = RunConfig(**TINY | {"device": "cuda:99"})
    assert RunConfig.from_settings(config.settings()) == config, "a record from another machine is read anywhere"
    for name in ("cuda:99", "meta", "hpu"):
        with pytest.raises(ValueError, match=f"device: '{name}' cannot be used here"):
            train(replace(config, device=name))


def test_a_misspelt_setting_is_told_its_neighbour():
    with pytest.raises(ValueError, match="batchsize is not a setting of RunConfig: batch_size?"):
        RunConfig(batchsize=3)


def test_a_run_learns():
    """On one key and one value, all that can be known is known soon."""
    record = train(RunConfig(**TINY | {"vocab_size": 6, "steps": 40, "lr": 0.03, "eval_every": 40}))
    assert record.outcome == "solved"


def test_the_size_of_the_validation_set_is_a_setting_of_its_own():
    assert RunConfig(batch_size=16).validation_sequences == 256, "16 training batches, the study's"
    small, large = (RunConfig(**TINY | {"batch_size": b, "validation_sequences": 10}) for b in (4, 7))
    sets = [c.task.validation_set(3, c.validation_sequences, c.batch_size) for c in (small, large)]
    assert [len(tokens) for tokens, _ in sets[0]] == [4, 4, 2]
    for part in (0, 1):
        assert torch.equal(*(torch.cat([batch[part] for batch in batches]) for batches in sets))


def test_an_evaluation_is_in_evaluation_mode_and_leaves_the_mode_as_it_was():
    config, modes = RunConfig(**TINY), []
    model = MLSTMModel(config.model)
    model.register_forward_hook(lambda module, *_: modes.append(module.training))
    for training in (True, False):
        model.train(training)
        evaluate(model, config.task.validation_set(0, 4, 4))
        assert model.training is training
    assert modes == [False, False]


def test_validation_and_probe_batches_are_made_where_training_computes(monkeypatch):
    """On the stream that a graph is replayed on: what another stream makes, it would not wait for."""
    inside, made = [], []

    @contextlib.contextmanager
    def on_its_stream(self):
        inside.append(True)
        yield
        inside.pop()

    def spied(name):
        right = getattr(NoisyRecall, name)
        monkeypatch.setattr(NoisyRecall, name, lambda *x, **y: made.append((name, bool(inside))) or right(*x, **y))

    monkeypatch.setattr(TrainingStep, "on_its_stream", on_its_stream)
    spied("validation_set")
    run = Run(RunConfig(**TINY | {"steps": 1}, probes=True))
    spied("sample")
    run.advance(0.0)
    assert made == [("validation_set", True), ("sample", False), ("sample", True), ("sample", True)]


# Engines and concurrent runs


def losses(step: TrainingStep, steps: int) -> list[float]:
    """The loss of every step."""
    found = []
    for _ in range(steps):
        with step.on_its_stream():  # elsewhere it would be read before the graph has run
            step.loss_sum.zero_()
            step.step()
            found.append(step.loss_sum.item())
    return found


@pytest.mark.parametrize("read", [RawRead(), NewtonSchulzRead()], ids=["raw", "orthogonalized"])
def test_the_schedule_on_the_device_changes_no_loss(read):
    config = RunConfig(read=read, **TINY | {"steps": 50, "lr": 0.01})
    eager, scheduled = (losses(kind(config, torch.device("cpu")), 50) for kind in (TrainingStep, ScheduledOnDevice))
    assert scheduled == pytest.approx(eager, rel=1e-5)
    assert eager[0] != eager[-1]


@pytest.mark.needs_cuda
@pytest.mark.parametrize("read", [RawRead(), NewtonSchulzRead()], ids=["raw", "orthogonalized"])
def test_the_graph_changes_no_loss(read):
    config = RunConfig(read=read, **TINY | {"steps": 50, "lr": 0.01}, device="cuda")
    device = torch.device("cuda")
    eager, graph = (losses(kind(config, device), 50) for kind in (TrainingStep, GraphStep))
    assert graph == pytest.approx(eager, rel=1e-5)


def test_engines_are_chosen_by_device():
    assert type(make_training_step(RunConfig(**TINY), torch.device("cpu"))) is TrainingStep
    with pytest.raises(ValueError, match="engine: 'graph' needs a CUDA device, not 'cpu'"):
        RunConfig(**TINY, engine="graph")
    with pytest.raises(ValueError, match="engine must be one of 'auto', 'eager', 'graph', not 'fast'"):
        RunConfig(**TINY, engine="fast")


@pytest.mark.parametrize("fused", [True, False])
def test_a_graph_is_taken_wherever_nothing_waits_for_the_host(monkeypatch, fused):
    monkeypatch.setattr(chunkwise, "can_fuse", lambda *_: fused)
    config, gpu = RunConfig(**TINY), torch.device("cuda")
    assert takes_graph(config, gpu) and not takes_graph(config, torch.device("cpu"))
    assert not takes_graph(replace(config, form="parallel"), gpu)
    orthogonalized = replace(config, read=NewtonSchulzRead())
    assert takes_graph(orthogonalized, gpu) is fused
    assert takes_graph(replace(orthogonalized, write=WriteBack()), gpu)
    assert takes_graph(replace(orthogonalized, form="recurrent"), gpu)
    for read in (MesaRead(), BlendRead(0.5, RawRead(), MesaRead())):
        waiting = replace(config, read=read)
        assert not takes_graph(waiting, gpu) and not takes_graph(replace(waiting, form="recurrent"), gpu)
        asked = replace(waiting)
        object.__setattr__(asked, "engine", "graph")  # a machine without a GPU would not take the device
        with pytest.raises(ValueError, match="engine: no graph can be captured of .*MesaRead.* on cuda"):
            takes_graph(asked, gpu)


def test_runs_side_by_side_come_out_as_alone():
    configs = [RunConfig(seed=seed, **TINY | {"steps": steps}) for seed, steps in ((0, 6), (1, 4), (2, 6))]
    seen = []
    together = train_together(configs, lambda config, line: seen.append((config.seed, line.step)))
    for config, record in zip(configs, together, strict=True):
        alone = train(config)
        assert without_times(record) == without_times(alone)
        assert record.device == alone.device + ", 3 runs at once"
    assert seen == [(0, 4), (1, 4), (2, 4), (0, 6), (2, 6)]


@contextlib.contextmanager
def kept_by(setting, getting, value):
    """Inside, a setting of PyTorch's has another value."""
    before = getting()
    setting(value)
    try:
        yield
        assert getting() == value, "it is the caller's again"
    finally:
        setting(before)


def set_products(precision: str) -> None:
    torch.backends.mkldnn.matmul.fp32_precision = precision


@pytest.mark.parametrize(
    "callers",
    [
        lambda: kept_by(torch.set_default_dtype, torch.get_default_dtype, torch.float64),
        lambda: torch.device("meta"),
        lambda: torch.autocast("cpu", torch.bfloat16),
        lambda: kept_by(torch.set_float32_matmul_precision, torch.get_float32_matmul_precision, "medium"),
        pytest.param(
            lambda: kept_by(set_products, lambda: torch.backends.mkldnn.matmul.fp32_precision, "bf16"),
            marks=pytest.mark.skipif(not hasattr(torch.backends.mkldnn, "matmul"), reason="PyTorch is older"),
        ),
        torch.no_grad,
        torch.inference_mode,
    ],
    ids=["dtype", "device", "autocast", "matmul precision", "one backend's", "no_grad", "inference_mode"],
)
def test_defaults_that_the_caller_has_set_change_nothing(callers):
    """A record could not tell of them."""
    wanted, precisions = train(RunConfig(**TINY)), []

    def states():
        return (torch.get_default_device(), torch.is_autocast_enabled("cpu"), torch.is_grad_enabled(),
                torch.is_inference_mode_enabled())  # fmt: skip

    with callers():
        before = states()
        record = train(RunConfig(**TINY), lambda _: precisions.append(torch.get_float32_matmul_precision()))
        assert states() == before, "they are the caller's again"
    assert without_times(record) == without_times(wanted)
    assert set(precisions) == {"highest"}, "few processors round otherwise"


def test_an_accuracy_of_exactly_a_level_reaches_it():
    class Always(torch.nn.Module):
        def forward(self, tokens):
            return torch.nn.functional.one_hot(torch.zeros_like(tokens), 2).float()

    for right in range(1, 10):
        targets = torch.tensor([[0] * right + [1] * (10 - right)])
        assert evaluate(Always(), [(torch.zeros_like(targets), targets)])[0] == right / 10


def test_where_a_run_is_computed_does_not_tell_it_apart():
    config = RunConfig(**TINY)
    record = train(config)
    elsewhere = replace(record, settings=record.settings | {"device": "cuda:99", "engine": "graph"})
    assert RunConfig.of_record(elsewhere) == config, "it is asked on any machine's CPU"
    assert RunConfig.of_record(elsewhere, probes=True) == replace(config, probes=True)
    other = RunConfig.of_record(elsewhere, read=RawRead(), batch_size=3)
    assert other == replace(config, read=RawRead(), batch_size=3)
    assert other.validation_sequences == config.validation_sequences
    older = {n: v for n, v in record.settings.items() if n != "validation_sequences"} | {"eval_batches": 2}
    assert RunConfig.of_record(replace(record, settings=older), validation_sequences=7).validation_sequences == 7
    assert RunConfig(**TINY, engine="eager").identity == config.identity
    assert RunConfig(**TINY, precision="tf32").identity != config.identity
    assert RunConfig(**TINY | {"batch_size": 4}, probes=True).identity == RunConfig(**TINY | {"batch_size": 4}).identity


def test_records_that_are_older_than_a_setting_mean_what_was_then():
    config = RunConfig(**TINY, embedding_std=small_init_std(TINY["embedding_dim"]))
    newer = (
        "engine", "precision", "embedding_std", "probes", "write", "frozen_keys", "qk_lr_factor", "task", "model",
        "mixer", "optimizer", "proj_factor", "conv_kernel_size", "qkv_block_size", "validation_sequences",
    )  # fmt: skip
    older = {name: value for name, value in config.settings().items() if name not in newer} | {"eval_batches": 2}
    assert RunConfig.from_settings(older) == config
    assert identity(older) == config.identity != RunConfig(**TINY).identity
    assert run_table([RunRecord(older, [], "plateau", 1.0, "a CPU", {}, None, "")])["embedding_std"].tolist() == [
        config.embedding_std
    ]


def test_identities_never_change():
    """Literals: a change here would train recorded runs again."""
    small = {"embedding_std": small_init_std(94), "batch_size": 16}
    assert RunConfig(**small, seed=11).identity == "3453782c7aa233fc"
    assert RunConfig(**small, seed=11, read=NewtonSchulzRead()).identity == "55e35fb2a7ff2c1c"
    assert RunConfig(batch_size=16, seed=11).identity == "c4febe8161de20e9"
    assert RunConfig(batch_size=16, seed=11, steps=4000, read=NewtonSchulzRead()).identity == "ecd8826bbc586533"
    recorded = {record.identity for record in RunStore(project_root() / "results").records()}
    assert {"3453782c7aa233fc", "55e35fb2a7ff2c1c"} <= recorded


def test_a_record_names_the_revision_that_it_began_with(monkeypatch):
    seen = []
    module = sys.modules["orthonar.training.train"]
    monkeypatch.setattr(module, "revision", lambda: "later" if seen else "at first")
    assert train(RunConfig(**TINY), on_evaluation=seen.append).revision == "at first"
    assert seen


def test_the_revision_is_this_checkouts_whatever_else_git_is_told(monkeypatch, tmp_path):
    here = revision.__wrapped__()
    make = ["git", "-c", "user.name=a", "-c", "user.email=b", "-C", str(tmp_path)]
    subprocess.run([*make, "init", "-q"], check=True)
    subprocess.run([*make, "commit", "-q", "--allow-empty", "-m", "another repository's"], check=True)
    monkeypatch.setenv("GIT_DIR", str(tmp_path / ".git"))
    monkeypatch.setenv("GIT_WORK_TREE", str(tmp_path))
    assert revision.__wrapped__() == here
