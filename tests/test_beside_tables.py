"""Tables and figures of what stands beside the study, from records that never were."""

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from tiny import TINY, record_of

from benchmarks import attention as command
from benchmarks import streaming as streaming_command
from orthonar import KeyDoor, RunConfig
from orthonar.report import style, words
from orthonar.report.figures import beside as plots
from orthonar.report.tables import attention, beside, streaming, tail
from orthonar.report.tables.runs import study_runs
from orthonar.study.contents import DELAYS, OCCURRENCES
from orthonar.study.presets import PRESETS
from orthonar.study.sides import HEADLINE

SEEDS = tuple(range(8))
NOISE = replace(
    TINY, tasks=tuple(TINY.tasks[0] | {"frac_noise": share} for share in (0.0, 0.5)), rates=(1e-3,), rate_seeds=(),
    seeds=SEEDS,
)  # fmt: skip
STUDY = replace(NOISE, tasks=TINY.tasks[:1])


pytestmark = pytest.mark.usefixtures("figures_closed")


def noisy_records():
    """With noise the second side solves all its runs and the first none, without it both solve all."""
    made = []
    for config in NOISE.runs([]):
        solved = config.frac_noise == 0 or config.read != HEADLINE["baseline"].settings["read"]
        made.append(record_of(config, 0.9 if solved else 0.1))
    return made


def test_what_is_told_says_what_is_missing():
    records = noisy_records()
    assert len(beside.told(NOISE, records)) == 2 and "missing" not in " ".join(beside.told(NOISE, records))
    first = [r for r in records if r.settings["read"]["name"] == "RawRead"]
    assert beside.told(NOISE, first) == [
        "Not run yet: 16 of 32 runs, among them all of orthogonalized at vocabulary 16, length 16, batch 2, frac noise "
        "0; orthogonalized at vocabulary 16, length 16, batch 2, frac noise 0.5."
    ]
    assert beside.told(NOISE, []) == ["Not run yet: 32 of 32 runs."]
    assert beside.told(NOISE, records[1:])[-1] == "Not run yet: 1 of 32 runs."


def answers_of(records, numbers):
    index = pd.Index([record.identity for record in records], name="identity")
    return pd.DataFrame([numbers] * len(records), index)


def test_the_tail_is_recalled_apart():
    records = [record_of(c, 0.9 if c.seed < 5 else 0.3) for c in STUDY.runs([])]
    numbers = {f"share_{n}": 0.5 / 2 ** (n - 1) for n in OCCURRENCES} | {"share_8": 0.5 / 2**6}
    numbers |= {f"recall_{n}": min(1.0, 0.2 * n) for n in OCCURRENCES} | {"recall_8": np.nan}
    table = tail.recall(study_runs(STUDY, records), answers_of(records[:12], numbers))
    assert len(table) == 12 and table["once"].tolist() == pytest.approx(12 * [0.2])
    shares = np.array([numbers[f"share_{n}"] for n in range(4, 9)])
    assert table["4 or more"][0] == pytest.approx((shares * [0.8, 1, 1, 1, 0]).sum() / shares.sum())
    text = tail.recall_text(table, [*STUDY.sides, "elsewhere"])
    assert text.loc["baseline, solved", ["runs", "once"]].tolist() == ["5", "20.0"]
    assert text.loc["elsewhere", "runs"] == words.NOT_RUN and len(text.columns) <= 6
    assert tail.answer(table)[0].startswith("Baseline, 5 solved runs: 20.0 % of keys shown once before and ")
    figure = plots.recall_of_the_tail(table, STUDY.sides, "here")
    assert [ax.get_title() for ax in figure.axes] == ["solved runs", "runs not solved"]
    nothing = tail.recall(study_runs(STUDY, []), answers_of([], numbers).reindex(columns=list(numbers)))
    assert tail.answer(nothing) == [] and nothing.empty
    figure = plots.recall_of_the_tail(nothing, STUDY.sides, "here")
    assert [text.get_text() for ax in figure.axes for text in ax.texts] == 2 * [words.NOT_RUN]


def test_recall_after_delays():
    records = [record_of(c, 0.9) for c in STUDY.runs([])]
    numbers = {f"delay_{delay}": share for delay, share in zip(DELAYS, (1.0, 0.9, 0.5, 0.2, 0.1))}
    table = streaming.delays(study_runs(STUDY, records), answers_of(records[:3], numbers))
    assert streaming.delays_text(table).iloc[0].tolist() == ["100", "90", "50", "20", "10"]
    told = streaming.delay_answer(table, 0.125)
    assert "distractors: baseline (2 of its 8 solved runs asked) 50, 20, 10 %; orth" in told
    assert told.endswith("(guessing: 12 %).")
    apart = table.copy()
    apart[DELAYS[-1]] = [0.1, 0.3, 0.9]
    assert "solved runs asked) 50, 20, 20 (10 to 30) %; orth" in streaming.delay_answer(apart, 0.125), "two runs"
    ax = plots.recall_over_delay(table, STUDY.sides, 0.125, "here")
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["baseline", "orthogonalized", "guessing"]
    nothing = streaming.delays(study_runs(STUDY, []), answers_of([], numbers).reindex(columns=list(numbers)))
    assert "no solved run was asked yet" in streaming.delay_answer(nothing, 0.1)
    assert plots.recall_over_delay(nothing, STUDY.sides, 0.1, "here").texts[0].get_text() == words.NOT_RUN


@pytest.fixture(scope="module")
def streams(tmp_path_factory):
    """What the benchmark of streams leaves, of a tiny model."""
    folder = tmp_path_factory.mktemp("streams")
    sizes = "--vocab-size 11 --width 8 --heads 2 --threads 1 --reads raw --check"
    call = [*sizes.split(), "--tokens", "20", "60", "--results", str(folder)]
    patch = pytest.MonkeyPatch()
    patch.setattr(streaming_command, "fresh", streaming_command.measure)  # here, not in a process of its own
    patch.setattr(streaming_command, "_WARM_UP", 10)
    threads = torch.get_num_threads()
    for form in ("blocks", "steps"):
        streaming_command.main([*call, "--forms", form, "--block-size", "16"])
    torch.set_num_threads(threads)
    patch.undo()
    return folder


def test_streams_as_tables(streams, tmp_path):
    records = streaming.read_records(streams)
    table = streaming.table(records)
    assert table.groupby("form", sort=False)["tokens"].apply(list).to_dict() == {"blocks": [20, 60], "steps": [20, 60]}
    grown = streaming.growth(table)
    assert grown["ratio"].tolist() == pytest.approx([1, 1], abs=0.1) and (grown["difference"] < 1e-4).all()
    told = streaming.stream_answers(grown.assign(ratio=[1.005, 1.02], cpu_seconds=3.0, mib=400.0))
    assert told[0] == (
        "The raw read takes 3 CPU seconds for 60 tokens in blocks of 16, and at most 400 MiB, no more than 1 % above "
        f"what 20 took; read in another way its logits differ by {grown['difference'][0]:.0e} of the largest."
    )
    assert "token by token, and at most 400 MiB, 2.0 % above what 20 took" in told[1]
    text = streaming.growth_text(grown)
    assert list(text.index) == ["raw, in blocks of 16", "raw, token by token"] and len(text.columns) <= 6
    assert style.text_width(text) < words.PAGE
    ax = plots.stream_memory(table)
    assert [t.get_text() for t in ax.get_legend().get_texts()] == list(text.index)

    lines = (streams / streaming.FILE).read_text().splitlines()
    (tmp_path / streaming.FILE).write_text(f"{lines[0]}\n{{}}\n{lines[0][:50]}\n")
    damaged = []
    assert len(streaming.read_records(tmp_path, damaged)) == 1 and [d.line for d in damaged] == [2, 3]
    shorter = json.loads(lines[0]) | {"started": "2100-01-01T00:00:00+00:00"}
    shorter["rows"] = shorter["rows"][:1]
    assert streaming.table([*records, shorter]).equals(table), "one that did not come so far does not take its place"


def test_no_stream_measured(tmp_path):
    table = streaming.table(streaming.read_records(tmp_path))
    assert (
        streaming.stream_answers(streaming.growth(table)) == [] and streaming.growth_text(streaming.growth(table)).empty
    )
    assert plots.stream_memory(table).texts[0].get_text() == words.NOT_RUN


@pytest.fixture(scope="module")
def costs(tmp_path_factory):
    """What the benchmark of attention leaves, of short lengths."""
    folder = tmp_path_factory.mktemp("attention")
    patch, threads = pytest.MonkeyPatch(), torch.get_num_threads()
    patch.setattr(command, "pass_memory", command._extra_memory)  # here, not in a process of its own
    command.main(["--training", "16", "32", "--tokens", "8", "16", "--repeats", "1", "--results", str(folder)])
    torch.set_num_threads(threads)
    patch.undo()
    return folder


def test_attentions_cost_as_tables(costs):
    record = attention.newest(attention.read_records(costs))
    table = attention.table(record)
    assert len(table) == 3 * 4 and (table["low"] <= table["ms"]).all() and (table["ms"] <= table["high"]).all()
    states = table[table["what"] == "token"].pivot(index="length", columns="contender", values="mib")
    assert states["baseline"].nunique() == 1 and states["attention"].is_monotonic_increasing
    assert "1 thread" in attention.caption(record) and attention.caption(None) == words.NOT_RUN
    for what in attention.KINDS:
        text = attention.beside(table, what)
        assert len(text) == 2 and len(text.columns) == 6 and style.text_width(text) <= words.PAGE
        plots.attention_cost(table, what, "memory").draw_without_rendering()


def test_where_attention_costs_more():
    rows = []
    for length, of_attention in ((64, 1.0), (128, 3.0), (256, 9.0)):
        for name, ms in (("baseline", 2.0), ("orthogonalized", 20.0), ("attention", of_attention)):
            rows.append(
                {"what": "training", "contender": name, "length": length, "ms": ms, "low": ms, "high": ms, "mib": ms}
            )
    table = pd.DataFrame(rows)
    assert attention.overtaken(table, "training", "ms") == {"baseline": (128, 256), "orthogonalized": (None, 256)}
    assert attention.answers(table)[0] == (
        "A training pass: attention's median time exceeds the raw mLSTM's from 128 tokens on, the orthogonalized "
        "mLSTM's at no length up to 256 tokens."
    )
    nothing = attention.table(None)
    assert attention.answers(nothing) == []
    figure = plots.attention_cost(nothing, "token", "state")
    assert [text.get_text() for ax in figure.axes for text in ax.texts] == 2 * [words.NOT_RUN]


@pytest.mark.parametrize("name", ["mqar", "world", "attention", "muon"])
def test_runs_of_every_preset_have_a_table(name):
    """How a run ended is told on every task."""
    if name == "world":
        pytest.importorskip("gymnasium")
    study = PRESETS[name]["pocket"]
    config = study.run(study.tasks[0], next(iter(study.sides)), study.rates[0], study.seeds[0])
    runs = study_runs(study, [record_of(config, 0.95)])
    assert runs["ended"].tolist() == ["solved"] and len(runs) == 1
    guess = record_of(config, 1 / len(config.task.values))
    assert study_runs(study, [guess])["ended"].tolist() == ["at chance"]


def test_outcomes_are_what_a_door_can_come_to():
    task = KeyDoor(doors=2, keys=2, distractors=1)
    assert list(task.values) == [5, 6]
    assert RunConfig(task=task).task.values == task.values
