"""The benchmarks run and give well-formed figures; how good these are is theirs to report."""

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import msgspec
import pytest

from benchmarks import in_process, memory, ranker, rates, report, stages
from benchmarks.gauges import Cores, cores, cpu_of, percentile, pinned
from benchmarks.peers import ABOUT, Peer
from benchmarks.workload import purchases, to_logs, with_requests
from stream_app.event import encode
from stream_app.pipeline import STAGES
from stream_app.stages.candidates import POOL_SIZE
from stream_app.steps import Admitted, Due
from tests.onnx_model import write_model

ROOT = Path(__file__).resolve().parents[1]
EVENTS = 3_000


@pytest.fixture(scope="module")
def figures() -> report.Figures:
    """Return the figures of a short run without a broker."""
    records = [
        (event.user_id.encode(), encode(event), int(event.timestamp))  # type: ignore[arg-type]
        for event in purchases(EVENTS)
    ]
    return report.Figures(
        cpu="some",
        cores=1,
        load_before=0.0,
        in_process=in_process.run(EVENTS, repeats=1),
        memory=memory.run(records),
    )


def test_one_event_in_five_is_a_request() -> None:
    """Requests come behind every fourth purchase, in the partition of their user."""
    logs = to_logs(with_requests(purchases(EVENTS)))
    values = [record.value or b"" for log in logs.values() for record in log]
    requests = sum(b'"type":"recommend"' in value for value in values)
    assert requests == len(values) // 5
    assert all([r.offset for r in log] == list(range(len(log))) for log in logs.values())


def test_in_process_figures_are_complete(figures: report.Figures) -> None:
    """Each stage has its cost, and requests are answered where there are any."""
    found = figures.in_process
    assert found is not None
    for cost in (found.without_requests, found.with_requests):
        assert set(cost.stages) == {"next_batch", *STAGES, "changes"}
        assert min(cost.stages.values()) >= 0
        assert 0 < sum(cost.stages.values()) <= cost.cpu_us * 1.01
        assert cost.changelog_bytes > 0
    assert found.without_requests.recommendations == 0
    assert found.with_requests.recommendations == found.with_requests.events // 5
    assert found.with_requests_singly.batches >= found.with_requests.events
    assert found.with_requests_singly.changelog_bytes > found.with_requests.changelog_bytes


def test_memory_figures_are_of_another_process(figures: report.Figures) -> None:
    """The process reports all events, its rows and what it takes."""
    found = figures.memory
    assert found is not None
    assert found.events == len(list(purchases(EVENTS)))
    assert found.outputs > 0
    assert 0 < found.row_bytes < found.rss_bytes <= found.rss_highest_bytes
    assert found.rows["user"] > 0 < found.rows["item"]


def test_report_says_which_targets_are_met(figures: report.Figures) -> None:
    """Tables, JSON and Markdown hold the figures and the targets that these have."""
    document = msgspec.json.decode(msgspec.json.encode(report.to_json(figures)))
    assert len(document["targets"]) == 3
    assert all(isinstance(target["met"], bool) for target in document["targets"])
    assert document["in_process"]["without_requests"]["cpu_us"] > 0
    assert "rates" not in document
    text = report.to_markdown(figures)
    assert all(str(table.title) in text for table in report.tables(figures))


def test_report_sets_peers_beside_the_worker(tmp_path: Path) -> None:
    """Every way has its row, its guarantee and its bar; the cores are named."""
    ratios = dict(zip((*rates.WAYS, *Peer), range(10, 0, -1), strict=False))
    found = rates.Rates(
        events=10,
        requests=2,
        outputs=3,
        partitions=4,
        repeats=1,
        cores=Cores([7], [5, 6]),
        ways={name: _way(name, ratio / 10) for name, ratio in ratios.items()},
    )
    figures = report.Figures(cpu="some", cores=3, load_before=0.0, rates=found)
    text = report.to_markdown(figures)
    for name, ratio in ratios.items():
        assert f"| {ABOUT[name].title} | 1 | {ratio * 100:,} |" in text
        assert f"| {ABOUT[name].title} | {ABOUT[name].guarantee} |" in text
    said = " ".join(text.split())
    assert "bound to core 7, Kafka and the measuring process to 5, 6." in said
    assert f"]({report.PLOT})" in text
    report.plot(found, tmp_path / report.PLOT)
    assert (tmp_path / report.PLOT).stat().st_size > 0


def _way(name: str, ratio: float) -> rates.Way:
    run = rates.Run(ratio * 1_000, 100.0, 10.0, 3)
    return rates.Way(
        ABOUT[name].guarantee,
        run.events_per_second,
        (run.events_per_second, run.events_per_second),
        ratio,
        (ratio, ratio),
        run.cpu_us,
        run.kafka_cpu_us,
        [run],
    )


def test_rounds_begin_with_different_ways() -> None:
    """Each way runs in each round, and what takes long in the last only."""
    plan = rates.rounds(("a", "b", rates.SLOW), 3)
    assert plan == [
        *((0, "a"), (0, "b")),
        *((1, "b"), (1, "a")),
        *((2, rates.SLOW), (2, "a"), (2, "b")),
    ]


def test_outputs_that_differ_are_an_error() -> None:
    """What is missing, different or too much is counted and named."""
    wanted = {"a": b"1", "b": b"2", "c": b"3"}
    rates.check_same("way", dict(wanted), wanted)
    with pytest.raises(rates.WayError, match="of 3 outputs 1 are missing and 1 differ; 2 oth"):
        rates.check_same("way", {"a": b"1", "b": b"other", "d": b"4", "e": b"5"}, wanted)


def test_processes_are_pinned_for_a_while() -> None:
    """A process keeps to its cores, and what it starts meanwhile too."""
    before = os.sched_getaffinity(0)
    chosen = cores()
    assert set(chosen.measured + chosen.others) == before
    asks = "import os; print(*os.sched_getaffinity(0))"
    with pinned(os.getpid(), chosen.measured):
        done = subprocess.run([sys.executable, "-c", asks], capture_output=True, check=True)
        assert os.sched_getaffinity(0) == set(chosen.measured)
    assert list(map(int, done.stdout.split())) == chosen.measured
    assert os.sched_getaffinity(0) == before


@pytest.mark.parametrize("names", [(), ("rerank", "emit")])
def test_stages_are_measured_alone(
    names: Sequence[str], capsys: pytest.CaptureFixture[str]
) -> None:
    """Each stage has a benchmark of its name; the last line is JSON with the stages asked for."""
    stages.main([*names, "--events", str(EVENTS), "--repeats", "1"])
    last = capsys.readouterr().out.splitlines()[-1]
    costs = msgspec.json.decode(last, type=dict[str, stages.StageCost])
    assert list(costs) == list(names or STAGES)
    assert min(cost.cpu_us for cost in costs.values()) > 0
    assert min(cost.of_decode for cost in costs.values()) > 0


def test_stages_alone_do_what_they_do_together() -> None:
    """What is prepared for the stages has an answer for every request of the log."""
    logs = to_logs(with_requests(purchases(EVENTS)))
    partition, log = next((number, log) for number, log in logs.items() if log)
    prepared = stages.prepare(log, partition)
    asked = sum(b'"type":"recommend"' in (record.value or b"") for record in log)
    assert prepared.events == sum(len(each.batch.records) for each in prepared.slices)
    assert asked == sum(len(each.answers.ranked) for each in prepared.slices)
    steps = [step for each in prepared.slices for step in each.steps]
    kinds = {step.kind for step in steps if isinstance(step, Due)}
    assert kinds >= {"label", "churn", "churn-label", "silence"}
    assert any(isinstance(step, Admitted) and step.predicted for step in steps)


def test_stages_refuse_an_unknown_name() -> None:
    """A name that no stage has ends with the names that there are."""
    command = [sys.executable, "-m", "benchmarks.stages", "guess"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "decode" in done.stderr


def test_cpu_of_a_process_counts_up() -> None:
    """A process that works has spent CPU time, as seen from outside."""
    work = "for n in range(10**7): pass\nprint('done', flush=True)\ninput()"
    command = [sys.executable, "-c", work]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        child.stdout.readline()
        assert cpu_of(child.pid) > 0
        child.communicate(b"\n")


def test_percentile_of_one_value_is_the_value() -> None:
    """Any percentile of a single sample is that sample."""
    assert percentile([7.0], 50) == percentile([7.0], 99.9) == 7.0


def test_cost_of_a_model_is_measured(tmp_path: Path) -> None:
    """A model's cost is measured at 50 candidates and at a full pool, by the clock given."""
    write_model(tmp_path)
    costs = ranker.measure(tmp_path, 2, iter(range(1_000)).__next__)
    assert [(cost.candidates, cost.cpu_us) for cost in costs] == [(50, 5e5), (POOL_SIZE, 5e5)]
