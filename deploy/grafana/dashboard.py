"""Writes the dashboard: a table of rows and panels, as the JSON that Grafana reads.

python deploy/grafana/dashboard.py > deploy/grafana/dashboards/stream_app.json
"""

import sys
from dataclasses import dataclass

from grafana_foundation_sdk.builders import common, dashboard, prometheus, stat, timeseries
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.common import LegendDisplayMode, LegendPlacement
from grafana_foundation_sdk.models.dashboard import (
    DashboardCursorSync,
    DataSourceRef,
    VariableOption,
    VariableRefresh,
)

DATASOURCE = DataSourceRef(type_val="prometheus", uid="prometheus")  # the uid that is provisioned
WORKERS = 'job="stream_app", instance=~"$instance"'
HEIGHT, LOW = 8, 4  # of panels and tiles; a row of the grid is 24 wide


@dataclass(frozen=True)
class Panel:
    """A panel: queries by legend; ``tiles`` shows the last values in place of their course."""

    title: str
    unit: str
    description: str
    queries: dict[str, str]
    span: int = 8
    tiles: bool = False


def selected(name: str, labels: str = "") -> str:
    """Return a metric of the workers that are chosen."""
    return f"stream_app_{name}{{{WORKERS}{', ' if labels else ''}{labels}}}"


def rate(name: str, by: str = "", labels: str = "") -> str:
    """Return the summed rate of a counter."""
    grouped = f" by ({by})" if by else ""
    return f"sum{grouped} (rate({selected(name, labels)}[$__rate_interval]))"


def quantile(share: float, name: str, by: str = "") -> str:
    """Return a quantile of a histogram."""
    grouped = f"le, {by}" if by else "le"
    return f"histogram_quantile({share}, {rate(f'{name}_bucket', grouped)})"


def quantiles(name: str) -> dict[str, str]:
    """Return the usual quantiles of a histogram, by legend."""
    return {f"p{round(share * 100)}": quantile(share, name) for share in (0.5, 0.95, 0.99)}


def mean(name: str, by: str) -> str:
    """Return the mean of a histogram."""
    return f"{rate(f'{name}_sum', by)} / {rate(f'{name}_count', by)}"


def judged(name: str) -> dict[str, str]:
    """Return a figure of all that workers have judged, their mean, by target and horizon."""
    gauge = selected(name, 'partition="all"')
    return {
        "{{target}} within {{horizon}}": f"avg by (target, horizon) ({gauge} >= 0)"
    }  # NaN is not


def of_shown(event: str, by: str) -> str:
    """Return how many of the items shown were clicked on or bought, by place or by source."""
    name = f"recommended_{by}s_total"
    told = f'{by}!="unknown"' if by == "place" else ""
    shown = ", ".join(filter(None, ('event="impression"', told)))
    done = ", ".join(filter(None, (f'event="{event}"', told)))
    return f"{rate(name, by, done)} / {rate(name, by, shown)}"


HEALTH = (
    Panel(
        "Workers that answer",
        "none",
        "Workers that Prometheus reaches.",
        {"up": f"sum(up{{{WORKERS}}})"},
        span=4,
        tiles=True,
    ),
    Panel(
        "Workers that are ready",
        "none",
        "Workers that have read the catalogue and process all of their partitions.",
        {"ready": f"sum({selected('ready')})"},
        span=4,
        tiles=True,
    ),
    Panel(
        "Partitions assigned",
        "none",
        "Together they are those of the source topic; a worker without any stands by.",
        {"{{instance}}": selected("partitions_assigned")},
        span=4,
        tiles=True,
    ),
    Panel(
        "Version",
        "none",
        "Workers by the version of the program: two of them while one is rolled out.",
        {"{{version}}": f"count by (version) ({selected('build_info')})"},
        span=4,
        tiles=True,
    ),
    Panel(
        "Since the last commit",
        "s",
        "Time since any batch was confirmed; grows while no events come in.",
        {"all": f"time() - max({selected('last_commit_timestamp_seconds')})"},
        span=4,
        tiles=True,
    ),
    Panel(
        "Up for",
        "s",
        "Time since each process was started.",
        {"{{instance}}": f"time() - process_start_time_seconds{{{WORKERS}}}"},
        span=4,
        tiles=True,
    ),
    Panel(
        "Lag",
        "short",
        "Records in the log that are not committed, by partition.",
        {"{{partition}}": f"sum by (partition) ({selected('lag_records')})"},
    ),
    Panel(
        "Age of the oldest record that waits",
        "s",
        "How late recommendations are; of live workers only, since a replay's records are old.",
        {"{{partition}}": f"max by (partition) ({selected('lag_seconds')})"},
    ),
    Panel(
        "Commits",
        "ops",
        "Batches committed a second, by outcome; what is not confirmed costs a restore.",
        {"{{outcome}}": rate("commits_total", "outcome")},
    ),
    Panel(
        "Commits that were not confirmed",
        "ops",
        "By what the broker said; `fenced` is another owner, as after a worker was lost.",
        {"{{reason}}": rate("commit_failures_total", "reason")},
    ),
    Panel(
        "The watchdog",
        "s",
        "Time without a commit although records wait (a worker gives up at `stall_seconds`), and "
        "since the event loop last beat.",
        {
            "stalled, {{instance}}": f"max by (instance) ({selected('stalled_seconds')})",
            "heartbeat, {{instance}}": selected("heartbeat_age_seconds"),
        },
    ),
    Panel(
        "Memory",
        "bytes",
        "Resident memory of each worker.",
        {"{{instance}}": f"process_resident_memory_bytes{{{WORKERS}}}"},
    ),
)

TRAFFIC = (
    Panel(
        "Records by outcome",
        "cps",
        "Records of the source topic a second; a tick is written into an idle partition.",
        {"{{outcome}}": rate("records_total", "outcome")},
        span=6,
    ),
    Panel(
        "Events by type",
        "cps",
        "Events processed a second; what is rejected or comes twice is not among them.",
        {"{{type}}": rate("events_total", "type")},
        span=6,
    ),
    Panel(
        "Rejects by reason",
        "cps",
        "Records a second that are no valid events; they are in the dead-letter topic.",
        {"{{reason}}": rate("rejects_total", "reason")},
        span=6,
    ),
    Panel(
        "Outputs by topic",
        "cps",
        "Records produced a second.",
        {"{{topic}}": rate("outputs_total", "topic")},
        span=6,
    ),
)

LATENCY = (
    Panel(
        "End to end",
        "s",
        "From a record's timestamp to the commit of its outputs; of live workers only.",
        quantiles("end_to_end_seconds"),
    ),
    Panel(
        "Commits",
        "s",
        "Time that the broker takes for a transaction.",
        quantiles("commit_seconds"),
    ),
    Panel(
        "Stages",
        "s",
        "Mean time that a batch spends in each stage.",
        {"{{stage}}": mean("stage_seconds", "stage")},
    ),
    Panel(
        "CPU per record",
        "s",
        "CPU time of the whole process for each record that came in.",
        {
            "{{instance}}": "sum by (instance) (rate(process_cpu_seconds_total"
            f"{{{WORKERS}}}[$__rate_interval])) / {rate('records_total', 'instance')}"
        },
    ),
    Panel(
        "CPU",
        "percentunit",
        "Of one core, by worker; a worker uses one and a bit at most.",
        {"{{instance}}": f"rate(process_cpu_seconds_total{{{WORKERS}}}[$__rate_interval])"},
    ),
    Panel(
        "Records in a batch",
        "short",
        "Mean number of records in a transaction; batches grow with the load.",
        {"{{instance}}": mean("batch_records", "instance")},
    ),
)

RECOMMENDING = (
    Panel(
        "Model that is loaded",
        "none",
        "Workers by the ranking model that they have loaded; none where the formula ranks.",
        {"{{name}} {{version}}": f"count by (name, version) ({selected('model_info')})"},
        tiles=True,
        span=6,
    ),
    Panel(
        "Models refused",
        "none",
        "Ranking models refused when loaded, by reason.",
        {"{{reason}}": f"sum by (reason) ({selected('model_refusals_total')})"},
        tiles=True,
        span=6,
    ),
    Panel(
        "Catalogue",
        "none",
        "Items that can be recommended, and records of the catalogue that could not be read.",
        {
            "items": f"max({selected('catalog_items')})",
            "unreadable": f"max({selected('catalog_rejects_total')})",
        },
        tiles=True,
        span=6,
    ),
    Panel(
        "Age of the catalogue",
        "s",
        "Time since the newest record of the catalogue's topic was written.",
        {"age": f"time() - max({selected('catalog_updated_timestamp_seconds')})"},
        tiles=True,
        span=6,
    ),
    Panel(
        "Answers by model",
        "cps",
        "Recommendations a second by the model that scored them, and by what it fell back on.",
        {"{{model}}, fallback {{fallback}}": rate("answers_total", "model, fallback")},
    ),
    Panel(
        "Recommended items by source",
        "cps",
        "Where the items come from; one of several sources counts for each.",
        {"{{source}}": rate("recommended_sources_total", "source", 'event="recommended"')},
    ),
    Panel(
        "Recommended items by place",
        "cps",
        "How long recommendations are: each has an item at its first place.",
        {"{{place}}": rate("recommended_places_total", "place", 'event="recommended"')},
    ),
    Panel(
        "What users do with them",
        "cps",
        "Items shown, clicked on and bought; `unnamed_purchase` names no recommendation.",
        {"{{event}}": rate("recommended_places_total", "event", 'event!="recommended"')},
        span=6,
    ),
    Panel(
        "Click-through by place",
        "percentunit",
        "Of items shown at a place, those clicked on.",
        {"{{place}}": of_shown("click", "place")},
        span=6,
    ),
    Panel(
        "Click-through by source",
        "percentunit",
        "Of items shown from a source, those clicked on.",
        {"{{source}}": of_shown("click", "source")},
        span=6,
    ),
    Panel(
        "Purchases by source",
        "percentunit",
        "Of items shown from a source, those bought by an event that names the recommendation.",
        {"{{source}}": of_shown("purchase", "source")},
        span=6,
    ),
    Panel(
        "Models that took over",
        "none",
        "Models that workers have taken from the registry since they started.",
        {"{{instance}}": f"sum by (instance) ({selected('model_swaps_total')})"},
        span=6,
    ),
    Panel(
        "Requests that the shadow scored",
        "cps",
        "Requests that a model in the shadow ranked too, and those that it could not answer.",
        {"{{outcome}}": rate("shadow_requests_total", "outcome")},
        span=6,
    ),
    Panel(
        "In common with the shadow",
        "percentunit",
        "Of the recommended items, those that the shadow would have recommended too.",
        {"{{instance}}": mean("shadow_common_share", "instance")},
        span=6,
    ),
    Panel(
        "Purchases after a comparison",
        "cps",
        "By whose last ranking for the user had the item: that of the model which serves, of the "
        "shadow, both or neither.",
        {"{{found_by}}": rate("shadow_purchases_total", "found_by")},
        span=6,
    ),
)

PREDICTIONS = (
    Panel(
        "Predictions sent",
        "cps",
        "Probabilities a second, by target and horizon.",
        {"{{target}} within {{horizon}}": rate("predictions_total", "target, horizon")},
    ),
    Panel(
        "Predictions judged",
        "cps",
        "Predictions a second whose outcome has become known.",
        {"{{target}} within {{horizon}}": rate("judged_total", "target, horizon")},
    ),
    Panel(
        "Drift",
        "none",
        "Changes of the error within an hour that ADWIN found: for the better or the worse.",
        {
            "{{target}} within {{horizon}}, {{direction}}": "sum by (target, horizon, direction) "
            f"(increase({selected('drifts_total')}[1h]))"
        },
    ),
    Panel(
        "AUC",
        "none",
        "How well users who will are told from those who will not: 0.5 is chance, 1 is perfect. "
        "Of all cases since the start, the mean of the workers.",
        judged("auc"),
        span=6,
    ),
    Panel(
        "Calibration error",
        "none",
        "How far what happens is from what was predicted, over 10 bins.",
        judged("calibration_error"),
        span=6,
    ),
    Panel(
        "Log loss",
        "none",
        "In nats; compare it with the same target's past, not with other targets.",
        judged("log_loss"),
        span=6,
    ),
    Panel(
        "Base rate",
        "percentunit",
        "How often it happened at all.",
        judged("base_rate"),
        span=6,
    ),
    Panel(
        "Precision",
        "percentunit",
        "Of cases predicted with the threshold or more, those where it happened.",
        judged("precision"),
        span=6,
    ),
    Panel(
        "Recall",
        "percentunit",
        "Of cases where it happened, those predicted with the threshold or more.",
        judged("recall"),
        span=6,
    ),
    Panel("F1", "percentunit", "Harmonic mean of precision and recall.", judged("f1"), span=6),
    Panel(
        "Until an outcome is known",
        "s",
        "Mean log time from a prediction until it was judged: the horizon, and some lateness.",
        judged("label_delay_seconds"),
        span=6,
    ),
)

CHURN = (
    Panel(
        "Churn alerts",
        "cps",
        "Alerts a second, by how grave they are.",
        {"{{level}}": rate("churn_alerts_total", "level")},
        span=12,
    ),
    Panel(
        "Timers",
        "cps",
        "Timers fired a second: weekly looks at the risk, silence, labels, and the end of rows.",
        {"{{scope}} {{kind}}": rate("timers_total", "scope, kind")},
        span=12,
    ),
)

STATE = (
    Panel(
        "Rows of state",
        "short",
        "Users and items that the workers remember.",
        {"{{kind}}": f"sum by (kind) ({selected('state_rows')})"},
        span=6,
    ),
    Panel(
        "Changelog",
        "Bps",
        "Bytes of state rows written to Kafka a second.",
        {"{{instance}}": rate("changelog_bytes_total", "instance")},
        span=6,
    ),
    Panel(
        "Restores",
        "none",
        "Partitions whose state was read back, within 15 minutes.",
        {"{{instance}}": f"sum by (instance) (increase({selected('restores_total')}[15m]))"},
        span=6,
    ),
    Panel(
        "Time of a restore",
        "s",
        "Mean time from an assignment to a restored state, since the process was started.",
        {
            "{{instance}}": f"sum by (instance) ({selected('restore_seconds_sum')}) "
            f"/ sum by (instance) ({selected('restore_seconds_count')})"
        },
        span=6,
    ),
    Panel(
        "Position",
        "short",
        "Next offset of each source partition.",
        {"{{partition}}": f"max by (partition) ({selected('position')})"},
        span=24,
    ),
)

ROWS = {
    "Health": HEALTH,
    "Traffic": TRAFFIC,
    "Latency": LATENCY,
    "Recommending": RECOMMENDING,
    "Predictions": PREDICTIONS,
    "Churn": CHURN,
    "State": STATE,
}


def built(panel: Panel) -> stat.Panel | timeseries.Panel:
    """Return a panel as Grafana's library has it."""
    made: stat.Panel | timeseries.Panel
    if panel.tiles:
        made = stat.Panel().height(LOW)
    else:
        legend = common.VizLegendOptions().show_legend(show_legend=True)
        legend = legend.display_mode(LegendDisplayMode.LIST).placement(LegendPlacement.BOTTOM)
        made = timeseries.Panel().height(HEIGHT).min(0).fill_opacity(10).legend(legend)
    made = made.title(panel.title).description(panel.description).unit(panel.unit)
    made = made.span(panel.span).datasource(DATASOURCE)
    for number, (legend_format, query) in enumerate(panel.queries.items()):
        target = prometheus.Dataquery().expr(query).legend_format(legend_format)
        target = target.ref_id(chr(ord("A") + number))
        made = made.with_target(target.instant() if panel.tiles else target.range())
    return made


def whole() -> dashboard.Dashboard:
    """Return the dashboard."""
    instance = (
        dashboard.QueryVariable("instance")
        .label("Worker")
        .datasource(DATASOURCE)
        .query('label_values(up{job="stream_app"}, instance)')
        .refresh(VariableRefresh.ON_TIME_RANGE_CHANGED)
        .multi(multi=True)
        .include_all(include_all=True)
        .all_value(".*")
        .current(VariableOption(selected=True, text="All", value="$__all"))
    )
    made = (
        dashboard.Dashboard("stream_app")
        .uid("stream_app")
        .description("Recommendations, predictions and churn alerts from the clickstream.")
        .tags(["stream_app"])
        .refresh("10s")
        .time("now-1h", "now")
        .timezone("browser")
        .tooltip(DashboardCursorSync.CROSSHAIR)
        .with_variable(instance)
    )
    for title, panels in ROWS.items():
        made = made.with_row(dashboard.Row(title))
        for panel in panels:
            made = made.with_panel(built(panel))
    return made


def main() -> None:
    """Print the dashboard as JSON."""
    text = JSONEncoder(sort_keys=True, indent=2).encode(whole().build())
    sys.stdout.write(text + "\n")


if __name__ == "__main__":
    main()
