"""Muon beside AdamW: which parameters it steps, and how."""

import copy
import json
import pickle

import pytest
import torch
from test_extending import Counting, Mean
from tiny import SETTINGS
from torch import nn

from orthonar import AdamW, Muon, NewtonSchulzRead, RunConfig, WarmUp, train
from orthonar.study.runs import describe
from orthonar.training.optimizers import is_layer_matrix
from orthonar.training.record import RunRecord
from orthonar.training.step import TrainingStep, takes_graph

needs_muon = pytest.mark.skipif(not hasattr(torch.optim, "Muon"), reason="PyTorch before 2.9 has no Muon")
TINY = SETTINGS | {"vocab_size": 16, "seq_len": 16}
CPU = torch.device("cpu")


def parameters(step: TrainingStep) -> dict[str, torch.Tensor]:
    return {name: p.detach().clone() for name, p in step.model.named_parameters()}


def matrices_of(weight: torch.Tensor) -> torch.Tensor:
    return weight.reshape(-1, *weight.shape[-2:])


def quintic(x: torch.Tensor) -> torch.Tensor:
    """Five of Muon's steps for every matrix of (..., R, C), in float64."""
    x = x / x.norm(dim=(-2, -1), keepdim=True).clamp_min(1e-7)
    for _ in range(5):
        gram = x @ x.mT
        x = 3.4445 * x + (-4.7750 * gram + 2.0315 * gram @ gram) @ x
    return x


@needs_muon
def test_matrices_of_the_layer_are_orthogonalized_and_all_else_is_adamws():
    muon, adamw = (TrainingStep(RunConfig(optimizer=kind(lr=0.01), **TINY), CPU) for kind in (Muon, AdamW))
    matrices = {name: p for name, p in muon.model.named_parameters() if is_layer_matrix(name, p)}
    projections = {f"layer.{x}_proj.weight" for x in "qkv"} | {"layer.proj_up.weight", "layer.proj_down.weight"}
    assert set(matrices) == projections | {"layer.mlstm_cell.igate.weight", "layer.mlstm_cell.fgate.weight"}
    # Every matrix, every block of a projection, stepped alone by PyTorch's optimizer.
    alone = {name: [nn.Parameter(m.clone()) for m in matrices_of(p.detach())] for name, p in matrices.items()}
    options = {"weight_decay": 0.01, "momentum": 0.95, "adjust_lr_fn": "match_rms_adamw"}
    oracle = torch.optim.Muon([m for blocks in alone.values() for m in blocks], **options)
    for turn in range(3):
        adamw.model.load_state_dict(muon.model.state_dict())  # at the same point it has the same gradients
        start = parameters(muon)
        muon.step(), adamw.step()
        oracle.param_groups[0]["lr"] = rate = 0.01 * muon.config.schedule.relative_rate(turn, 4)
        grads = {name: p.grad for name, p in adamw.model.named_parameters()}
        for name, blocks in alone.items():
            for block, grad in zip(blocks, matrices_of(grads[name]), strict=True):
                block.grad = grad
        oracle.step()
        for name, p in muon.model.named_parameters():
            if name not in matrices:
                torch.testing.assert_close(p, adamw.model.get_parameter(name), rtol=0, atol=1e-9)
                continue
            assert torch.equal(matrices_of(p), torch.stack(alone[name])), name
            if turn == 0:  # the first moment is the gradient's direction; PyTorch iterates in bfloat16
                update = (start[name] - p).detach().double()
                wanted = 0.2 * rate * max(p.shape[-2:]) ** 0.5 * quintic(grads[name].double())
                assert (update * wanted).sum() / (update.norm() * wanted.norm()) > 0.95, name
                assert (update.norm() / wanted.norm()).item() == pytest.approx(1, abs=0.1)


@needs_muon
@pytest.mark.parametrize("name", ["layer.weight", "head.weight"])
def test_either_may_have_nothing_to_step(name):
    weight = nn.Parameter(torch.eye(3))
    optimizer = Muon().build([{"params": [weight], "names": [name], "lr": 0.1}])
    weight.square().sum().backward()
    optimizer.step()
    assert (weight.diagonal() < 0.99).all()
    optimizer.zero_grad()
    assert weight.grad is None


@needs_muon
def test_a_saved_optimizer_goes_on():
    config = RunConfig(optimizer=Muon(), **TINY)
    whole, first, second = (TrainingStep(config, CPU) for _ in range(3))
    whole.step(), whole.step(), first.step()
    second.model.load_state_dict(first.model.state_dict())
    second.optimizer.load_state_dict(first.optimizer.state_dict())
    second.batches.set_state(first.batches.get_state())
    second.steps_done = 1
    second.step()
    for name, p in parameters(whole).items():
        assert torch.equal(p, parameters(second)[name]), name


@needs_muon
def test_what_muon_cannot_do_it_refuses_in_words():
    optimizer = TrainingStep(RunConfig(optimizer=Muon(), **TINY), CPU).optimizer
    for copied in (copy.deepcopy, pickle.dumps):
        with pytest.raises(TypeError, match="state_dict"):
            copied(optimizer)
    with pytest.raises(ValueError, match="closure"):
        optimizer.step(lambda: 0.0)


@pytest.mark.parametrize("kind", [AdamW, pytest.param(Muon, marks=needs_muon)])
def test_a_group_without_a_rate_has_the_optimizers(kind):
    parameters = [nn.Parameter(torch.ones(3, 4)), nn.Parameter(torch.ones(3))]
    groups = [{"params": [p], "names": [name]} for name, p in zip(("layer.weight", "layer.bias"), parameters)]
    groups[1]["lr"] = 0.25
    assert [group["lr"] for group in kind(lr=0.5).build(groups).param_groups] == [0.5, 0.25]


@needs_muon
def test_muon_without_names_says_so():
    with pytest.raises(ValueError, match="^groups: each must have the 'names' of its params"):
        Muon().build([{"params": [nn.Parameter(torch.ones(3, 4))]}])


@needs_muon
def test_a_run_with_muon_is_recorded_and_told_from_others():
    others = TINY | {"qk_lr_factor": 2.0, "read": NewtonSchulzRead(), "schedule": WarmUp(warm_up=2)}
    config = RunConfig(optimizer=Muon(lr=0.01, momentum=0.9), **others)
    record = train(config)
    again = RunRecord.from_json(record.to_json())
    assert again == record and RunConfig.from_settings(json.loads(json.dumps(again.settings))) == config
    assert again.settings["optimizer"] == "Muon" and again.settings["momentum"] == 0.9
    assert config.identity != RunConfig(optimizer=AdamW(lr=0.01), **others).identity
    assert "Muon" in describe(config)


@needs_muon
def test_muon_learns():
    model = {name: value for name, value in SETTINGS.items() if name not in ("noise_vocab_size", "num_heads")}
    config = RunConfig(
        task=Counting(), mixer=Mean(), optimizer=Muon(lr=0.03), **model | {"steps": 300, "eval_every": 300}
    )
    assert train(config).accuracy > 0.9


def test_where_torch_has_no_muon_it_says_so(monkeypatch):
    config = RunConfig(optimizer=Muon(), **TINY)
    monkeypatch.delattr(torch.optim, "Muon", raising=False)
    with pytest.raises(ValueError, match="optimizer: Muon needs PyTorch 2.9"):
        train(config)


def test_no_graph_is_captured_of_muon():
    of = {optimizer: RunConfig(optimizer=optimizer(), device="cuda", **TINY) for optimizer in (Muon, AdamW)}
    assert [takes_graph(config, torch.device("cuda")) for config in of.values()] == [False, True]
    with pytest.raises(ValueError, match="engine: .*Muon"):
        takes_graph(RunConfig(optimizer=Muon(), device="cuda", engine="graph", **TINY), torch.device("cuda"))
