"""Schedules at the follow-up's recipe: what a longer cosine does, in sentences."""

from dataclasses import replace

from tiny import record_of

from orthonar.report.tables.schedules import longer_answers, longer_schedule
from orthonar.training.record import Evaluation


def test_a_longer_schedule_in_sentences():
    study = longer_schedule()
    assert longer_answers([record_of(c, 0.9) for c in study.runs([]) if c.steps == 2000]) == []
    made = []
    for config in study.runs([]):
        escaped = {2000: config.seed == 11, 4000: config.seed > 16}[config.steps]
        at = 1800 if config.seed % 2 else 2200
        trace = [Evaluation(s, 0.9 if escaped and s >= at else 0.1, 1.0, 1.0, 1.0) for s in (1800, 2200, config.steps)]
        made.append(replace(record_of(config, 0.9 if escaped else 0.1), trace=trace))
    counted, when = longer_answers(made)
    assert "seeds 11 to 26: baseline solves 1 of 16, baseline over 4,000 steps solves 10 of 16" in counted
    assert when.startswith("5 of the 16 runs over 4,000 steps reach 80 % by step 2,000, half of the 16 by step 2,200 (")
    never = [replace(r, trace=[replace(line, accuracy=0.1) for line in r.trace], outcome="plateau") for r in made]
    assert "half of the 16 never" in longer_answers(never)[1]
