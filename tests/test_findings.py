"""The table of what came out so far, from records that never were."""

from dataclasses import replace

import pytest
from tiny import record_of

from orthonar.report.published import ELIMINATION
from orthonar.report.tables.findings import COLUMNS, LEGEND, Question, as_markdown, findings, questions
from orthonar.report.words import NOT_RUN
from orthonar.study.presets import PRESETS
from orthonar.study.sides import ORTHOGONALIZED

REPLICATION = Question("follow-up's", "two reads", PRESETS["replication"]["paper"])
SWEEP = Question("pocket", "embeddings", PRESETS["initialisation"]["pocket"].only(["baseline"]))


def recorded(question, solves, seeds=100):
    """Records of a question's runs with seeds below a number, or all."""
    runs = [config for config in question.study.runs([]) if config.seed < seeds]
    return [record_of(config, 0.9 if solves(config) else 0.1) for config in runs]


def answer(question, records):
    [row] = findings(records, [question]).to_dict("records")
    return row


def orthogonalized(config):
    return config.read == ORTHOGONALIZED.settings["read"]


def test_pairs_are_told_by_mcnemar_and_others_by_fisher():
    whole = recorded(REPLICATION, orthogonalized)
    row = answer(REPLICATION, whole)
    assert (row["seeds"], row["solved"], row["published"]) == ("11 to 26", "0, 16 of 16", "3, 9 of 16")
    assert row["p"] == f"**{2 * 0.5**16:.2g}**"
    fewer = [r for r in whole if not (orthogonalized_record(r) and r.settings["seed"] >= 19)]
    row = answer(REPLICATION, fewer)
    assert (row["seeds"], row["solved"]) == ("11 to 18", "0, 8 of 8"), "the seeds that both have"
    assert row["p"] == f"**{2 * 0.5**8:.2g}**"
    elsewhere = [r if r in fewer else replace(r, settings=r.settings | {"device": "cuda"}) for r in whole]
    row = answer(REPLICATION, elsewhere)
    assert (row["seeds"], row["solved"], row["p"]) == ("11 to 26", "0, 16 of 16", "**3.3e-09** †")  # 2 in 32 over 16


def test_sides_without_a_common_seed_are_compared_as_strangers():
    whole = recorded(REPLICATION, orthogonalized)
    apart = [r for r in whole if orthogonalized_record(r) == (r.settings["seed"] >= 19)]
    row = answer(REPLICATION, apart)
    assert (row["seeds"], row["solved"]) == ("11 to 18; 19 to 26", "0, 8 of 8")
    assert row["p"] == "**0.00016** †"  # 2 in 16 over 8


def orthogonalized_record(record):
    return record.settings["read"]["name"] == "NewtonSchulzRead"


def test_of_several_comparisons_the_smallest_p_is_told_for_all_of_them():
    row = answer(SWEEP, recorded(SWEEP, lambda config: config.embedding_std == 0.1))
    assert row["solved"] == "0, 0, 8, 0 of 8"
    assert row["p"] == f"**{3 * 2 * 0.5**8:.2g}**"
    assert answer(SWEEP, recorded(SWEEP, lambda config: config.seed < 2))["p"] == "1"


def test_bold_is_what_stays_by_holms_correction_over_the_rows():
    records = recorded(SWEEP, lambda config: config.embedding_std == 0.1)
    assert findings(records, [SWEEP] * 2)["p"].tolist() == ["**0.023**"] * 2, "0.023 times 2 is below 0.05"
    assert findings(records, [SWEEP] * 3)["p"].tolist() == ["0.023"] * 3, "times 3 it is not"
    assert findings(records, [SWEEP, REPLICATION, REPLICATION])["p"].tolist() == ["**0.023**", "", ""], "one test"


def test_seeds_that_another_study_asks_for_count_where_all_have_them():
    headline = Question("pocket", "two reads", PRESETS["headline"]["pocket"].only(tasks=1))
    more = [r for r in recorded(headline, orthogonalized) if not orthogonalized_record(r)]
    alone = answer(SWEEP, recorded(SWEEP, lambda config: config.embedding_std == 0.1))
    assert answer(SWEEP, recorded(SWEEP, lambda config: config.embedding_std == 0.1) + more[8:]) == alone
    longer = replace(SWEEP, study=replace(SWEEP.study, seeds=tuple(range(10))))
    row = answer(SWEEP, recorded(longer, lambda config: config.embedding_std == 0.1))
    assert (row["seeds"], row["solved"]) == ("0 to 9", "0, 0, 10, 0 of 10")
    few = [
        r for r in recorded(longer, lambda config: False) if r.settings["embedding_std"] < 1 or r.settings["seed"] < 2
    ]
    assert answer(SWEEP, few)["solved"] == "0 of 2, 0 of 10, 0 of 10, 0 of 10", "two runs leave the others theirs"


def test_seeds_that_a_comparison_was_picked_on_do_not_count():
    picked = replace(SWEEP, study=replace(SWEEP.study, seeds=tuple(range(20))), left_out=range(8))
    row = answer(picked, recorded(picked, lambda config: config.embedding_std == 0.1 and config.seed < 10))
    assert (row["seeds"], row["solved"], row["p"]) == ("8 to 19", "0, 0, 2, 0 of 12", "1")
    squares = {q.compared.rpartition(" ")[2]: list(q.left_out) for q in questions() if "least squares" in q.compared}
    assert squares == {"56": list(range(8)), "64": []}, "found on the first task alone"


def test_seeds_that_rates_are_chosen_on_do_not_count():
    rates = PRESETS["learning-rate"]["pocket"]
    chosen_on = [record_of(config, 0.9) for config in rates.rate_runs(rates.tasks[0], "baseline")]
    row = answer(SWEEP, recorded(SWEEP, lambda config: False) + chosen_on)
    assert (row["seeds"], row["solved"]) == ("0 to 7", "0, 0, 0, 0 of 8")


def test_what_was_trained_on_different_kinds_of_devices_is_named():
    records = recorded(REPLICATION, orthogonalized)
    on_gpus = [replace(r, settings=r.settings | {"device": "cuda"}) if orthogonalized_record(r) else r for r in records]
    assert answer(REPLICATION, records)["devices"] == ""
    table = findings(on_gpus, [REPLICATION])
    assert "different kinds: two reads (follow-up's): CPUs against GPUs." in as_markdown(table)


def test_few_runs_get_no_p_and_none_no_counts():
    row = answer(SWEEP, recorded(SWEEP, lambda config: config.embedding_std == 0.1, seeds=7))
    assert (row["solved"], row["p"]) == ("0, 0, 7, 0 of 7", "")
    one_side = [r for r in recorded(REPLICATION, orthogonalized) if not orthogonalized_record(r)]
    for records in ([], one_side):
        assert REPLICATION.row(records)["solved"] == NOT_RUN


def test_a_cell_without_runs_is_a_dash():
    records = [r for r in recorded(SWEEP, lambda config: True) if r.settings["embedding_std"] != 0.3]
    assert SWEEP.row(records)["solved"] == "8 of 8, -, 8 of 8, 8 of 8"
    first = [r for r in recorded(SWEEP, lambda config: True) if r.settings["embedding_std"] != 1]
    assert SWEEP.row(first)["solved"] == NOT_RUN


def test_every_question_compares_and_is_a_row():
    asked = questions()
    assert all(len(question.study.cells()) > 1 for question in asked)
    assert len({(question.recipe, question.compared) for question in asked}) == len(asked)
    table = findings([])
    assert list(table) == [*COLUMNS, "devices"] and len(table) == len(asked) and (table["solved"] == NOT_RUN).all()


def test_what_was_run_is_a_table_and_what_was_not_a_sentence():
    table = findings(recorded(SWEEP, lambda config: True), [REPLICATION, SWEEP])
    rows, missing, legend = as_markdown(table).split("\n\n")
    lines = rows.split("\n")
    assert len(lines) == 3 and {line.count("|") for line in lines} == {len(COLUMNS) + 1}
    assert lines[2].startswith("| pocket | embeddings | 0 to 7 | 8, 8, 8, 8 of 8 |")
    assert missing == "Not run yet: two reads (follow-up's; published 3, 9 of 16)." and legend == LEGEND
    assert as_markdown(table[:1]) == f"{missing}\n\n{legend}"
    assert "Not run" not in as_markdown(table[1:])


def test_what_is_named_is_in_the_order_of_the_cells():
    for question in questions():
        named = question.compared.rpartition(":")[2] if "embedding std" in question.compared else ""
        if named:
            stds = [question.study.run(*cell, 3e-3, 0).embedding_std for cell in question.study.cells()]
            told = [float(word) for word in named.replace("embedding std", "").split(",")]
            assert stds == pytest.approx(told, abs=5e-4)


def test_the_elimination_names_every_variant_that_the_follow_up_has():
    [question] = [q for q in questions() if len(q.study.sides) > 8]
    squares = [q for q in questions() if "least squares" in q.compared]
    assert all("rls_read" in q.study.sides for q in squares) and len(squares) == 2
    assert set(question.study.sides) == set(ELIMINATION) - {"orthogonalized", "rls_read"}
    assert question.compared == "raw read; 8 other variants in notebook 07's order"
    sides = [side for _, side in question.study.cells()]
    names = ["baseline", "ns0", "ns1", "ns3", "forward", "backward", "random", "delta", "lr_x4"]
    assert all(word in side for word, side in zip(names, sides, strict=True))
