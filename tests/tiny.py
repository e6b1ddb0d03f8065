"""A study whose runs take milliseconds, and records and tables of runs that never were."""

import pandas as pd

from orthonar import RunConfig
from orthonar.study.presets import Study
from orthonar.training.record import Evaluation, RunRecord

TASKS = ({"vocab_size": 16, "seq_len": 16}, {"vocab_size": 20, "seq_len": 16})
SETTINGS = {
    "noise_vocab_size": 4, "embedding_dim": 8, "num_heads": 2, "batch_size": 2, "steps": 4, "eval_every": 2,
    "validation_sequences": 2,
}  # fmt: skip
TINY = Study("tiny", TASKS, SETTINGS, rates=(1e-3, 1e-2), rate_seeds=(100, 101), seeds=(0, 1, 2))


def record_of(config: RunConfig, accuracy=0.5, seconds=1.0) -> RunRecord:
    trace = [Evaluation(config.steps, accuracy, 1.0, 1.0, seconds)]
    outcome = "diverged" if accuracy is None else "solved" if accuracy >= 0.8 else "plateau"
    versions = {"torch": "2.13.0"}
    return RunRecord(config.settings(), trace, outcome, seconds, "a CPU", versions, None, "2026-07-01T00:00:00+00:00")


def run_table(escapes, budget=100, accuracies=None):
    """A run table with these escape steps (None: never)."""
    escape = pd.Series(escapes, dtype=float)
    accuracy = escape.notna() * 0.9 + escape.isna() * 0.2 if accuracies is None else accuracies
    seeds = range(len(escape))
    return pd.DataFrame({
        "seed": seeds, "device": "cpu", "identity": [f"run {seed}" for seed in seeds], "outcome": "plateau",
        "escape_step": escape, "steps": budget, "accuracy": accuracy, "solved": escape.notna(),
    })  # fmt: skip
