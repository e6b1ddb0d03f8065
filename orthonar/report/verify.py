"""Hold what is recorded against what is published, and check the records: `python -m orthonar.verify`.

Three things, in seconds: every published number beside the recorded one, with the test that compares them; the
checksums of the result files against results/SHA256SUMS, and the records against themselves; and a few recorded runs,
trained again on this machine up to their first evaluation. Exit status:

    0  all that must be exact on any machine is
    1  something is not: it is named
    2  there is nothing to verify

Whether a number agrees with the published one never changes the status, nor does a training that comes out otherwise:
another processor rounds otherwise.
"""

import argparse
import json
import os
import sys
import textwrap
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch

from .. import paths
from ..data.base import IGNORE_INDEX
from ..study.checksums import NOT_LISTED, FileCheck, check_files, result_files, write_list
from ..study.contents import answer_table
from ..study.jsonl import Damage, files_in
from ..study.records import RunStore, read_records
from ..study.sides import HEADLINE
from ..study.sweep import describe
from ..training.config import RunConfig
from ..training.environment import usual_defaults
from ..training.record import RunRecord
from ..training.train import Run
from . import stats
from .claims import AGREES, DIFFERS, NOT_RUN, Claim, claims

#: Widest line that is printed.
WIDTH = 100
#: Seconds to the first evaluation from which on a run is too long to be trained again here.
_LONGEST = 60


@dataclass(frozen=True)
class Again:
    """The first evaluation of a recorded run, trained again on this machine.

    Args:
        run: which one, in a few words.
        step: training steps done.
        accuracy: as recorded, 0 to 1.
        accuracy_here: as it came out here.
        loss: as recorded, nats.
        loss_here: as it came out here.
        seconds: how long it took.
    """

    run: str
    step: int
    accuracy: float | None
    accuracy_here: float | None
    loss: float | None
    loss_here: float | None
    seconds: float

    def __str__(self) -> str:
        if self.loss is None or self.loss_here is None or self.accuracy is None or self.accuracy_here is None:
            return f"{self.run}: step {self.step}: the loss is not finite here"
        accuracy = f"accuracy {100 * self.accuracy_here:.1f} % (recorded {100 * self.accuracy:.1f})"
        apart = abs(self.loss_here - self.loss) / abs(self.loss)
        loss = "the same loss, to the last bit" if not apart else f"loss {apart:.1g} apart, relatively"
        return f"{self.run}: step {self.step}: {accuracy}, {loss}"


def whole_counts(record: RunRecord) -> str | None:
    """Whether each accuracy of a trace is a whole number of right answers at the run's own scored positions.

    The validation set is made again, from NumPy's generator, so it is the same on every machine.

    Args:
        record: a run record.

    Returns:
        None if they are; else what is wrong, in one sentence.

    Raises:
        ImportError: what the run's task needs is not installed here.
    """
    try:
        config = RunConfig.of_record(record)
    except ValueError as error:
        return f"its settings cannot be made here, so nothing of it is checked: {error}"
    sequences: Any = config.validation_sequences  # a number, once the settings are made
    batches = config.task.validation_set(config.seed, sequences, config.batch_size, "cpu")
    scored = sum(int((targets != IGNORE_INDEX).sum()) for _, targets in batches)
    for line in record.trace:
        if line.accuracy is None:
            continue
        right = round(line.accuracy * scored)
        if np.float32(right) / np.float32(scored) != np.float32(line.accuracy):
            return f"step {line.step}: accuracy {line.accuracy!r} is no whole number of {scored} answers"
    return None


def to_train_again(records: Iterable[RunRecord], most: int) -> list[RunRecord]:
    """A sample of the records: of the post's two reads in turn those whose first evaluation came soonest, on a CPU.

    What cannot be made here, since its task needs what is not installed, is left out.

    Args:
        records: run records.
        most: how many to choose.
    """
    reads = [RunConfig(**side.settings).settings()["read"] for side in HEADLINE.values()]
    here = [
        record
        for record in records
        if record.settings.get("device", "cpu") == "cpu"
        and record.trace[0].accuracy is not None
        and record.trace[0].seconds < _LONGEST
    ]
    soonest = sorted(here, key=lambda record: (record.trace[0].seconds, record.identity))
    of_read = [
        list(islice((r for r in soonest if r.settings.get("read") == read and _can_be_made(r)), most)) for read in reads
    ]
    turns = [found[i] for i in range(most) for found in of_read if i < len(found)]
    return turns[:most]


def _can_be_made(record: RunRecord) -> bool:
    """Whether a run's settings and its task's sequences can be made here."""
    try:
        config = RunConfig.of_record(record)
        config.task.validation_set(config.seed, 1, 1, "cpu")
    except (ValueError, ImportError):
        return False
    return True


@usual_defaults()
def train_again(record: RunRecord) -> Again:
    """Train a recorded run up to its first evaluation, in one thread, and compare.

    Args:
        record: a run record whose first evaluation is finite.
    """
    config = RunConfig.of_record(record, probes=False)
    threads, begin = torch.get_num_threads(), time.perf_counter()
    torch.set_num_threads(1)
    try:
        run = Run(config)
        while not run.trace:
            run.advance(begin)
    finally:
        torch.set_num_threads(threads)
    then, now = record.trace[0], run.trace[0]
    seconds = round(time.perf_counter() - begin, 1)
    return Again(describe(config), then.step, then.accuracy, now.accuracy, then.loss, now.loss, seconds)


def claim_table(found: Sequence[Claim]) -> str:
    """The claims as text, no wider than `WIDTH`: a heading for each group, a line per number, what is not run below.

    Args:
        found: as of `orthonar.report.claims.claims`.
    """
    head = ("", "published", "here", "runs", "p", "")
    rows = {claim: _cells(claim) for claim in found if claim.verdict != NOT_RUN}
    widths = [max(len(row[i]) for row in [head, *rows.values()]) for i in range(len(head))]
    widths[0] = min(widths[0], WIDTH - sum(widths[1:]) - 2 * (len(head) - 1))
    lines = [_line(head, widths)]
    for group in dict.fromkeys(claim.group for claim in found):
        members = [claim for claim in found if claim.group == group]
        lines += ["", *textwrap.wrap(f"{group} ({members[0].scale} scale)", WIDTH)]
        for claim in members:
            lines += _wrapped(rows[claim], widths) if claim in rows else []
        missing = [_wanted(claim) for claim in members if claim not in rows]
        if missing:
            text = f"not run: {'; '.join(missing)}"
            lines += textwrap.wrap(text, WIDTH, initial_indent="  ", subsequent_indent="    ")
    return "\n".join(lines)


def _cells(claim: Claim) -> tuple[str, ...]:
    runs = f"{claim.runs} of {claim.planned}" if claim.planned else f"{claim.runs}" if claim.runs else ""
    p = "" if claim.p is None else f"{claim.p:.2g} {claim.test}"
    return claim.what, claim.published or "-", claim.here, runs, p, claim.verdict


def _wanted(claim: Claim) -> str:
    return f"{claim.what}: {claim.published} ({claim.source})" if claim.published else claim.what


def _line(row: Sequence[str], widths: Sequence[int]) -> str:
    return "  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip()


def _wrapped(row: Sequence[str], widths: Sequence[int]) -> list[str]:
    first, *more = textwrap.wrap(row[0], widths[0], initial_indent="  ", subsequent_indent="    ")
    return [_line([first, *row[1:]], widths), *more]


def verify(folder: str | os.PathLike, recompute: int = 2) -> dict:
    """All that `python -m orthonar.verify` checks, as plain data.

    Args:
        folder: the folder of the records.
        recompute: how many runs to train again up to their first evaluation.

    Returns:
        claims (a list of `Claim` as dictionaries), files (those that are not just unchanged), again (of `Again`),
        faults (sentences about what must be exact and is not), unchecked (sentences about what can be checked only
        where more is installed), counts of what was checked.

    Raises:
        OSError: the folder cannot be read.
    """
    folder = Path(folder)
    faults: list[str] = []
    store, damaged = RunStore(folder), list[Damage]()
    records = store.records()
    kept = answer_table(folder, damaged)
    files = _files(folder, faults)
    by_file = _records_by_file(folder, damaged)
    faults += [f"damaged: {damage}" for damage in [*store.damaged, *damaged]]
    again = to_train_again(records, recompute)
    firsts = [found[0] for found in by_file.values() if found]
    sample = list({record.identity: record for record in (*again, *firsts)}.values())
    unchecked: list[str] = []
    for record in sample:
        try:
            if wrong := whole_counts(record):
                faults.append(f"run {record.identity}: {wrong}")
        except ImportError as error:
            unchecked.append(f"run {record.identity}: {error}")
    found = claims(records, kept)
    faults += [f"{c.what}: {c.here}, published {c.published}" for c in found if c.test == "equality"
               and c.verdict != AGREES]  # fmt: skip
    return {
        "claims": [asdict(claim) for claim in found],
        "files": [check._asdict() for check in files if check.state != "unchanged" or check.added],
        "again": [asdict(train_again(record)) for record in again],
        "faults": faults,
        "unchecked": unchecked,
        "counts": {
            "records": sum(map(len, by_file.values())),
            "files": sum(check.state != NOT_LISTED for check in files),
            "whole counts": len(sample) - len(unchecked),
        },
    }


def _records_by_file(folder: Path, damaged: list[Damage]) -> dict[str, list[RunRecord]]:
    """The run records of every file, those in inner folders too, which no table takes; benchmarks' are of no runs."""
    found = {path.name: read_records(path, []) for path in files_in(folder)}
    for inner in sorted(path for path in folder.iterdir() if path.is_dir() and path.name != "benchmarks"):
        for path in files_in(inner) if inner.name[0] != "." else ():
            found[f"{inner.name}/{path.name}"] = read_records(path, damaged)
    return found


def _files(folder: Path, faults: list[str]) -> list[FileCheck]:
    try:
        files = check_files(folder)
    except (OSError, ValueError) as error:
        faults.append(f"checksums: {error}")
        return []
    faults += [f"{folder / check.file}: {check.state} since the checksums were made" for check in files
               if not check.fine]  # fmt: skip
    return files


def print_report(result: dict, seconds: float) -> None:
    """Print what `verify` returned, for a reader.

    Args:
        result: as of `verify`.
        seconds: how long it took.
    """
    found = [Claim(**claim) for claim in result["claims"]]
    print(claim_table(found))
    count = {verdict: sum(c.verdict == verdict for c in found) for verdict in (AGREES, DIFFERS, NOT_RUN)}
    judged = f"{count[AGREES]} agree, {count[DIFFERS]} differ, {count[NOT_RUN]} are not run, of {len(found)} numbers."
    legend = (
        f"{judged} Solved: a final accuracy of at least 80 %, with Wilson's 95 % interval, against the published count "
        f"by Fisher's exact test, two-sided; they differ where p is at most {stats.LEVEL:g}, as one in twenty does by "
        f"chance. Fewer than {stats.LEAST_FOR_INTERVAL} runs are not judged. Means were published without their "
        "spread, so no test compares them; those here have a 95 % interval, or are given run by run. Unpublished "
        "numbers: against the baseline, by McNemar's exact test in pairs of a seed, or by Fisher's where pairs are "
        "missing."
    )
    print(f"\n{textwrap.fill(legend, WIDTH)}\n")
    counts = result["counts"]
    print(f"{counts['files']} files held against their checksums, {counts['records']} records read.")
    for check in result["files"]:
        more = f", {check['added']} lines added" if check["added"] else ""
        print(_wrap(f"{check['file']}: {check['state']}{more}"))
    traces = f"{counts['whole counts']} of their traces, one a file and those trained again"
    print(_wrap(f"{traces}: every accuracy a whole number of answers, unless named below.", ""))
    if result["again"]:
        print("Trained again on this machine up to the first evaluation (on another processor the last digits differ):")
    for again in result["again"]:
        print(_wrap(str(Again(**again))))
    print()
    for sentence in result["unchecked"]:
        print(_wrap(f"not checked here: {sentence}", ""))
    for fault in result["faults"]:
        print(_wrap(f"NOT EXACT: {fault}", ""))
    print(f"{'Something that must be exact is not' if result['faults'] else 'All that must be exact is'}"
          f" ({seconds:.0f} s).")  # fmt: skip


def _wrap(text: str, indent: str = "  ") -> str:
    return textwrap.fill(text, WIDTH, initial_indent=indent, subsequent_indent="    ", break_on_hyphens=False)


def _count(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is no number of runs")
    return int(text)


def main(argv: list[str] | None = None) -> int:
    """The command line.

    Args:
        argv: arguments; None for the program's.

    Returns:
        The exit status.
    """
    parser = argparse.ArgumentParser(
        prog="python -m orthonar.verify", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--results", metavar="DIR", type=Path, help="folder of the records; default: results/")
    parser.add_argument("--recompute", metavar="N", type=_count, default=2, help="runs to train again; default: 2")
    parser.add_argument("--json", action="store_true", help="print everything as JSON instead of a table")
    parser.add_argument("--write-checksums", action="store_true", help="list the files as they are now, and end")
    args = parser.parse_args(argv)
    folder = (args.results or paths.results_dir()).resolve()
    if not folder.is_dir() or not result_files(folder):
        print(f"nothing to verify: there are no records in {folder}", file=sys.stderr)
        return 2
    if args.write_checksums:
        try:
            print(f"written: {write_list(folder)}")
        except OSError as error:
            print(f"not written: the list in {folder} ({error.strerror or error})", file=sys.stderr)
            return 2
        return 0
    begin = time.perf_counter()
    try:
        result = verify(folder, args.recompute)
    except OSError as error:
        print(f"nothing to verify: {error}", file=sys.stderr)
        return 2
    if not (result["counts"]["records"] or result["faults"]):
        print(f"nothing to verify: there is no record in the files in {folder}", file=sys.stderr)
        return 2
    try:
        if args.json:
            print(json.dumps(result, indent=1))
        else:
            print_report(result, time.perf_counter() - begin)
        sys.stdout.flush()
    except BrokenPipeError:  # whoever reads it has read enough; the rest goes nowhere, also at the interpreter's end
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 1 if result["faults"] else 0


if __name__ == "__main__":
    sys.exit(main())
