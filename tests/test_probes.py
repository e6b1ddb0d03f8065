"""Probes: what they measure on memories made for it, and that a run with them is the run without."""

import math

import pytest
import torch

from orthonar import MLSTMModel, NewtonSchulzRead, NoisyRecall, RawRead, RunConfig, train
from orthonar.model import MLSTMConfig
from orthonar.study.records import trace_table
from orthonar.training.evaluation import questions
from orthonar.training.probes import condition, dynamics, effective_rank, gradient_coherence, memory, twin
from orthonar.training.record import RunRecord
from orthonar.training.train import fit_together

SETTINGS = {
    "vocab_size": 12, "seq_len": 16, "noise_vocab_size": 4, "embedding_dim": 8, "num_heads": 2, "batch_size": 4,
    "steps": 6, "eval_every": 3, "validation_sequences": 8,
}  # fmt: skip
TASK = NoisyRecall(12, 16, 4)


def a_model(read=None) -> MLSTMModel:
    config = MLSTMConfig(vocab_size=12, embedding_dim=8, num_heads=2, read=read or RawRead())
    return MLSTMModel(config, generator=torch.Generator().manual_seed(0))


def a_batch(batch: int = 4, seed: int = 0):
    return TASK.sample(batch, torch.Generator().manual_seed(seed))


def test_effective_rank_counts_equal_singular_values():
    for rank in (1, 2, 5):
        diagonal = torch.diag(torch.tensor([3.0] * rank + [0.0] * (6 - rank)))
        assert effective_rank(diagonal).item() == pytest.approx(rank)
    two_to_one = effective_rank(torch.diag(torch.tensor([2.0, 1.0]))).item()
    assert two_to_one == pytest.approx(math.exp(-2 / 3 * math.log(2 / 3) - 1 / 3 * math.log(1 / 3)))
    assert effective_rank(torch.zeros(2, 3, 4, 4)).tolist() == [[1.0] * 3] * 2


def test_condition():
    assert condition(torch.diag(torch.tensor([2.0, 0.5]))).item() == pytest.approx(4)
    assert condition(torch.diag(torch.tensor([2.0, 0.0]))).item() == pytest.approx(1e7)
    assert condition(torch.zeros(3, 3)).item() == pytest.approx(1e7)


def test_memory_is_what_stepping_leaves_behind():
    model, (tokens, _) = a_model(), a_batch()
    held, state = memory(model, tokens), None
    for t in range(tokens.shape[1]):
        _, state = model.step(tokens[:, t], state)
    torch.testing.assert_close(held, state.memory.c_state.detach(), rtol=1e-4, atol=1e-6)


def test_coherence_by_hand():
    model, batches = a_model(), [a_batch(seed=1), a_batch(seed=2)]
    gradients = []
    for tokens, targets in batches:
        model.zero_grad()
        logits = model(tokens)
        (-logits.log_softmax(-1).gather(-1, targets[..., None]).mean()).backward()
        layer = model.layer
        gradients.append(torch.cat([layer.q_proj.weight.grad.flatten(), layer.k_proj.weight.grad.flatten()]))
    model.zero_grad()
    first, second = gradients
    wanted = (first @ second / first.norm() / second.norm()).item()
    assert gradient_coherence(model, batches) == pytest.approx(wanted, rel=1e-4)
    assert gradient_coherence(model, [batches[0], batches[0]]) == pytest.approx(1)


@pytest.mark.parametrize("read", [RawRead(), NewtonSchulzRead()], ids=["raw", "orthogonalized"])
def test_a_run_with_probes_is_the_run_without(read):
    plain, probed = (train(RunConfig(read=read, **SETTINGS, probes=probes)) for probes in (False, True))
    numbers = [[(e.step, e.accuracy, e.loss, e.train_loss) for e in record.trace] for record in (plain, probed)]
    assert numbers[0] == numbers[1]
    assert plain.identity == probed.identity
    assert [e.probes for e in plain.trace] == [None, None]
    always = {"effective_rank", "log10_condition", "qk_coherence"}
    assert set(probed.trace[0].probes) == always
    decoded = {f"decode{u}{of}" for u in (0, 1) for of in ("", "_wrong_key", "_key_alone", "_other_memory")}
    at_the_end = {"accuracy_read_raw", "accuracy_read_orthogonalized"} | decoded
    assert set(probed.trace[-1].probes) == always | at_the_end
    assert RunRecord.from_json(probed.to_json()) == probed
    table = trace_table([plain, probed])
    assert table["effective_rank"].notna().tolist() == [False, False, True, True]
    own = "accuracy_read_raw" if read == RawRead() else "accuracy_read_orthogonalized"
    assert table[own].iloc[-1] == probed.accuracy


def test_probing_leaves_the_model_alone():
    model = a_model()
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    state = torch.get_rng_state()
    dynamics(model, a_batch()[0], [a_batch(seed=1), a_batch(seed=2)])
    questions(model, TASK, TASK.validation_set(0, 8, 4))
    assert torch.equal(torch.get_rng_state(), state)
    assert not model.layer.mlstm_cell._forward_pre_hooks
    assert all(torch.equal(p, before[name]) and p.grad is None for name, p in model.named_parameters())


def test_swapped_reads_share_parameters():
    model, (tokens, _) = a_model(), a_batch()
    swapped = twin(model, read=NewtonSchulzRead())
    assert swapped.embedding.weight.data_ptr() == model.embedding.weight.data_ptr()
    torch.testing.assert_close(swapped(tokens), a_model(NewtonSchulzRead())(tokens))
    assert not torch.allclose(swapped(tokens), model(tokens))
    with torch.no_grad():
        model.head.bias += 1
    torch.testing.assert_close(swapped(tokens), a_model(NewtonSchulzRead())(tokens) + 1)


def test_frozen_keys_stay_and_all_else_learns():
    config = RunConfig(**SETTINGS, frozen_keys=True, lr=0.01)
    start = fit_together([RunConfig(**SETTINGS | {"steps": 1}, frozen_keys=True, lr=1e-30, weight_decay=0)])[0].model
    end = fit_together([config])[0].model
    for (name, a), (_, b) in zip(start.named_parameters(), end.named_parameters(), strict=True):
        assert torch.equal(a, b) == (name == "layer.k_proj.weight"), name


def test_orthogonal_keys_start_as_rotations_and_all_else_as_always():
    still = SETTINGS | {"steps": 1, "lr": 1e-30, "weight_decay": 0}
    plain, rotated = (fit_together([RunConfig(**still, orthogonal_keys=o)])[0].model for o in (False, True))
    blocks = rotated.layer.k_proj.weight.detach().double()
    torch.testing.assert_close(
        blocks @ blocks.mT, torch.eye(4, dtype=torch.float64).expand_as(blocks), atol=1e-6, rtol=0
    )
    for (name, a), (_, b) in zip(plain.named_parameters(), rotated.named_parameters(), strict=True):
        assert torch.allclose(a, b, rtol=0, atol=1e-20) == (name != "layer.k_proj.weight"), name


def test_a_factor_on_queries_and_keys():
    """Adam's first step has the size of the learning rate, whatever the gradient."""
    steps = {}
    for factor in (1.0, 4.0):
        settings = SETTINGS | {"steps": 1, "lr": 1e-4, "weight_decay": 0, "qk_lr_factor": factor}
        steps[factor] = dict(fit_together([RunConfig(**settings)])[0].model.named_parameters())
    start = dict(
        fit_together([RunConfig(**SETTINGS | {"steps": 1, "lr": 1e-30, "weight_decay": 0})])[0].model.named_parameters()
    )
    for name in start:
        moved = {factor: (steps[factor][name] - start[name]).abs().max().item() for factor in steps}
        expected = 4 if name in ("layer.q_proj.weight", "layer.k_proj.weight") else 1
        assert moved[4.0] == pytest.approx(expected * moved[1.0], rel=2e-2), name
