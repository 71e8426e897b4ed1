"""The figures of ``benchmarks.pipeline``: beside their targets, as tables, JSON and Markdown."""

import operator
import re
from collections.abc import Iterator, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import matplotlib as mpl
import msgspec
from rich.table import Table

from benchmarks.in_process import Cost, InProcess
from benchmarks.latency import LINGER_MS, SETTLE_SECONDS, WARM_EVENTS, Latency
from benchmarks.memory import Memory
from benchmarks.peers import ABOUT, Peer
from benchmarks.rates import LOOP, WAYS, Rates

PLOT = "peers.png"
_TITLE = "What it costs, how fast it is, how long one waits"
_SINGLY = "pipeline.md#in-process-by-the-size-of-a-batch"
_HOW_POINT = re.compile(r"\n- \*\*")
COLUMNS = 100
MIB = 1024 * 1024


class Figures(msgspec.Struct, kw_only=True, omit_defaults=True):
    """All that was measured; a part that was left out is None. ``load_before`` is of a minute."""

    cpu: str
    cores: int
    load_before: float
    in_process: InProcess | None = None
    memory: Memory | None = None
    rates: Rates | None = None
    latency: Latency | None = None


class Target(msgspec.Struct, frozen=True):
    """A figure and the bound that it should keep to."""

    name: str
    figure: float
    bound: str
    met: bool


def targets(figures: Figures) -> list[Target]:
    """Return the figures that have a target."""
    found: list[Target] = []

    def add(name: str, figure: float, sign: str, bound: float) -> None:
        keeps = operator.le if sign == "<=" else operator.ge
        found.append(Target(name, figure, f"{sign} {bound:g}", bool(keeps(figure, bound))))

    if figures.in_process is not None:
        plain, asked = figures.in_process.without_requests, figures.in_process.with_requests
        add("CPU µs an event, no recommendations", plain.cpu_us, "<=", 100)
        add("CPU µs an event, one in five a request", asked.cpu_us, "<=", 250)
    if figures.memory is not None:
        add("resident MiB of a process", round(figures.memory.rss_bytes / MIB), "<=", 1024)
    if figures.rates is not None:
        for name in ("exactly_once", "at_least_once"):
            add(f"{name}, rate / bare loop's", figures.rates.ways[name].ratio, ">=", 0.6)
    if figures.latency is not None:
        add("p99 ms from request to answer", figures.latency.p99_ms, "<=", 100)
    return found


def to_json(figures: Figures) -> dict[str, Any]:
    """Return everything as what JSON holds."""
    document: dict[str, Any] = msgspec.to_builtins(figures)
    document["targets"] = msgspec.to_builtins(targets(figures))
    return document


# --- the tables, which the screen and the file share ----------------------------------------------

Rows = tuple[str, Sequence[str], list[Sequence[str]]]  # title, headings, rows


def _rows(figures: Figures) -> Iterator[Rows]:
    if found := targets(figures):
        yield (
            "Targets",
            ("what", "figure", "target", ""),
            [(t.name, f"{t.figure:g}", t.bound, "met" if t.met else "missed") for t in found],
        )
    if figures.in_process is not None:
        yield from _in_process_rows(figures.in_process)
    if figures.memory is not None:
        yield _memory_rows(figures.memory)
    if figures.rates is not None:
        yield from _rates_rows(figures.rates)
    if figures.latency is not None:
        yield _latency_rows(figures.latency)


def _in_process_rows(found: InProcess) -> Iterator[Rows]:
    plain, asked = found.without_requests, found.with_requests
    stages = [
        (name, f"{plain.stages[name]:.1f}", f"{asked.stages[name]:.1f}") for name in plain.stages
    ]
    headings = ("", "no recommendations", "one in five a request")
    yield (
        "In process, CPU µs an event",
        headings,
        [*stages, ("all", f"{plain.cpu_us:g}", f"{asked.cpu_us:g}")],
    )
    singly = found.without_requests_singly, found.with_requests_singly

    def row(name: str, costs: Sequence[Cost], field: str) -> Sequence[str]:
        return name, *(f"{getattr(cost, field):,g}" for cost in costs)

    yield (
        "In process, by the size of a batch",
        headings,
        [
            row("events", (plain, asked), "events"),
            row("batches of at most 128: batches", (plain, asked), "batches"),
            row(
                "batches of at most 128: changelog bytes an event",
                (plain, asked),
                "changelog_bytes",
            ),
            row("batches of 1: changelog bytes an event", singly, "changelog_bytes"),
            row("batches of 1: CPU µs an event", singly, "cpu_us"),
        ],
    )


def _memory_rows(found: Memory) -> Rows:
    return (
        "A process that has seen the whole shop",
        ("what", "figure"),
        [
            ("events", f"{found.events:,}"),
            ("recommendations made on the way", f"{found.outputs:,}"),
            ("resident MiB before the first event", f"{found.rss_before_bytes / MIB:.0f}"),
            ("resident MiB after the last", f"{found.rss_bytes / MIB:.0f}"),
            ("highest resident MiB", f"{found.rss_highest_bytes / MIB:.0f}"),
            ("rows of users", f"{found.rows['user']:,}"),
            ("rows of items", f"{found.rows['item']:,}"),
            ("MiB of keys and encoded rows", f"{found.row_bytes / MIB:.1f}"),
            ("CPU µs an event, recommendations included", f"{found.cpu_us:g}"),
        ],
    )


def _rates_rows(found: Rates) -> Iterator[Rows]:
    spread = "least, greatest"
    peers = [name for name in found.ways if name not in WAYS]
    given = f"{found.events:,} events, {found.requests:,} of them requests"
    yield (
        f"Kafka{' and peers' if peers else ''}: {given}, {found.outputs:,} outputs",
        ("", "rounds", "events/s", spread, "ratio", spread, "CPU µs", "Kafka's CPU µs"),
        [
            (
                ABOUT[name].title,
                f"{len(way.runs)}",
                f"{way.events_per_second:,.0f}",
                ", ".join(f"{rate:,.0f}" for rate in way.events_per_second_spread),
                f"{way.ratio:.2f}",
                ", ".join(f"{ratio:.2f}" for ratio in way.ratio_spread),
                f"{way.cpu_us:.0f}",
                f"{way.kafka_cpu_us:.0f}",
            )
            for name, way in found.ways.items()
        ],
    )
    if peers:
        yield (
            "What each of them guarantees",
            ("", "what goes together, and what a crash does"),
            [(ABOUT[name].title, way.guarantee) for name, way in found.ways.items()],
        )


def _latency_rows(found: Latency) -> Rows:
    shares = ", ".join(f"{name} {share:.2f}" for name, share in found.cpu_shares.items())
    return (
        "From just before a request is sent to its answer being seen, exactly_once",
        ("what", "figure"),
        [
            ("events a second, one in five a request", f"{found.events_per_second:,.0f}"),
            ("answers seen, missing", f"{found.samples:,}, {found.missing}"),
            ("p50, p95, p99 ms", f"{found.p50_ms:g}, {found.p95_ms:g}, {found.p99_ms:g}"),
            ("p99 ms of each round", ", ".join(f"{each:g}" for each in found.p99_ms_by_round)),
            ("longest ms", f"{found.max_ms:g}"),
            ("records in a transaction, mean", f"{found.batch_records:g}"),
            ("ms of a commit, mean", f"{found.commit_ms:g}"),
            ("cores in use", shares),
            ("producer behind its pace, at most ms", f"{found.producer_late_ms_max:g}"),
        ],
    )


def tables(figures: Figures) -> Iterator[Table]:
    """Yield the tables for the screen."""
    for title, headings, rows in _rows(figures):
        table = Table(title=title, title_justify="left", width=COLUMNS)
        for place, heading in enumerate(headings):
            justify: Literal["left", "right"] = "right" if _holds_figures(rows, place) else "left"
            table.add_column(heading, justify=justify, no_wrap=not place)
        for row in rows:
            table.add_row(*row)
        yield table


def _holds_figures(rows: Sequence[Sequence[str]], place: int) -> bool:
    """Whether a column is one of figures, which stand to the right; the first has the names."""
    return place > 0 and any(row[place][:1].isdigit() for row in rows)


def to_markdown(figures: Figures) -> str:
    """Return the document that stands in `docs/results`; the plot is of the page of peers."""
    of_peers = is_of_peers(figures)
    title = "Beside a bare loop and other frameworks" if of_peers else _TITLE
    parts = [f"# {title}", _how(figures)]
    for title, headings, rows in _rows(figures):
        marks = ["--:" if _holds_figures(rows, n) else "---" for n in range(len(headings))]
        lines = [headings, marks, *rows]
        table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
        parts.append(f"## {title}\n\n{table}")
        if title.startswith("Kafka and peers") and of_peers:
            parts.append(f"![Rates beside the bare loop's]({PLOT})")
    return "\n\n".join(parts) + "\n"


def is_of_peers(figures: Figures) -> bool:
    """Whether only rates were measured, those of peers too: a page of its own."""
    return figures.in_process is None


def plot(found: Rates, path: Path) -> None:
    """Draw each way's ratio to the bare loop's rate, and how far the rounds are apart."""
    mpl.use("Agg")
    from matplotlib import pyplot as plt  # noqa: PLC0415 - after the choice of the backend

    names = [name for name in found.ways if name != LOOP]
    ways = [found.ways[name] for name in names]
    ratios = [way.ratio for way in ways]
    below = [way.ratio - way.ratio_spread[0] for way in ways]
    above = [way.ratio_spread[1] - way.ratio for way in ways]
    figure, axis = plt.subplots(figsize=(9, 0.5 * len(names) + 1.2))
    colours = ["C1" if name in tuple(Peer) else "C0" for name in names]
    bars = axis.barh(range(len(names)), ratios, xerr=(below, above), color=colours, capsize=4)
    axis.set_yticks(range(len(names)), [ABOUT[name].title for name in names])
    axis.invert_yaxis()
    loop = axis.axvline(1.0, color="grey", linestyle="--")
    first_peer = colours.index("C1") if "C1" in colours else 0
    meant = {"the bare loop": loop, "a worker": bars[0], "others": bars[first_peer]}
    axis.legend(meant.values(), meant.keys(), loc="lower right")
    axis.set(xlabel=f"events/s beside the bare loop's; {found.events:,} events, the same outputs")
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    plt.close(figure)


def _where(found: Rates | None) -> str:
    """Return which cores the processes had."""
    if found is None:
        return ""
    measured, others = (
        ", ".join(map(str, chosen)) for chosen in (found.cores.measured, found.cores.others)
    )
    return (
        f"The measured process is bound to core {measured}, Kafka and the measuring process to "
        f"{others}."
    )


def _how(figures: Figures) -> str:
    """Return how all of this was measured."""
    repeats = figures.rates.repeats if figures.rates else 1
    options = " --only rates peers" if is_of_peers(figures) else ""
    head, *points = _HOW_POINT.split(_all_of_how(figures, repeats, options))
    left_out = {
        "In process": figures.in_process is None,
        "Memory": figures.memory is None,
        "Latency": figures.latency is None,
    }
    kept = [each for each in points if not left_out.get(each.partition("**")[0], False)]
    return "\n- **".join((head, *kept))


def _all_of_how(figures: Figures, repeats: int, options: str) -> str:
    """Return how everything is measured that can be."""
    return f"""\
Made by `make bench ARGS="--write{options}"` on {figures.cores} cores
of {figures.cpu}; the load average was {figures.load_before:g} when it began. One machine carries
Kafka, producer, reader and worker, so rates and waits are theirs together; compare ratios and CPU.

- **Input**: purchases of whole households of completejourney, 4 partitions. Where requests are
  among them, every fifth event is a `recommend` of the user before it, and nothing else is
  answered (`recommend_on` is empty): a fifth of the events costs a recommendation. Averages are
  over all events, requests included.
- **In process**: CPU time of `next_batch`, `process` and `PartitionState.changes`, batches of at
  most 128 records, the middle one of {repeats} runs. `features` includes `admit`'s `expire`;
  `changes` is the encoding of the rows. Changelog bytes are raw keys and rows, before Kafka's
  framing.
- **Memory**: a process that gets the records through a pipe, with the settings that a worker
  starts with (a recommendation after a purchase, at most one a minute and user); without Kafka's
  clients and Faust.
- **Kafka**: Apache Kafka 4.1.1, one broker; the same preloaded topic for all, one after the other,
  {repeats} rounds that begin at different places, medians. {_where(figures.rates)} The bare
  loop is one aiokafka consumer, the same `next_batch` and `process`, and one `send_batch` for each
  topic and partition: it writes no state and commits nothing. Rates run from the first stored
  output to the last (of loop and peers: to the end of their last commit), by the broker's clock,
  less the first batch; ratios are taken within a round. The worker's CPU is from its own metrics,
  all threads, its start left out, as it is of the others; Kafka's is its whole process, starts of
  the clients included.
- **Peers**: Quix Streams {version("quixstreams")} and a plain agent of Faust
  {version("faust-streaming")} on its aiokafka transport, in the settings that they come with but
  for the guarantee. They call the same `next_batch` and `process` on the same state, one record at
  a time, because one record at a time is what they hand out; batches of one cost more
  ([measured in process]({_SINGLY})). Each run must
  store the same outputs as the loop, byte for byte: ids, keys, values, headers and partitions
  are compared, and that each peer has committed all of its input. Without
  *rows* a peer keeps the state in its memory and nowhere else, as the loop does; with *rows* it
  also writes what each record has changed to its own store: Quix once a commit and row, Faust
  each time. A worker can restore its state and does so in tests; a peer's restart is not measured.
  Quix's transactions of 5 s show an answer to a `read_committed` reader up to 5 s late, hence the
  way with as many records in one as a worker has. *Faust, rows* runs in one round: it is slow.
- **Latency**: {WARM_EVENTS:,} events fill the state first, {SETTLE_SECONDS:g} s at the pace are not
  counted, {repeats} rounds follow without a break. Events are dated as they are sent, at half of
  the rate that `exactly_once` reached above. Producer (in the measuring process, `linger.ms`
  {LINGER_MS}) and reader (a process of its own, `read_committed`, `fetch.wait.max.ms` 5) are
  librdkafka's; both read the machine's monotonic clock. The linger is the better of two that were
  tried: with 0 ms the p99 was 342 to 500 ms where 5 ms gave 226 to 286."""
