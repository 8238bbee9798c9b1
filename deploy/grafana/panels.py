"""The dashboards of spotd, panel by panel. make_dashboards.py turns this into Grafana's JSON and into the tables of
docs/operations.md; tests/deploy/monitoring_test.py runs every query against a real spotd.

In queries, @ stands for the dashboards' variables: the models and instances that are looked at.
"""
from typing import NamedTuple


class Panel(NamedTuple):
    title: str
    text: str  # what it shows and how to read it
    queries: list  # of (legend, PromQL)
    unit: str = "short"  # Grafana's name of the unit
    kind: str = "timeseries"  # or stat, heatmap, table
    stacked: bool = False
    width: int = 12  # of 24
    maximum: float = None
    limits: tuple = ()  # (value, colour): the colour from that value on


class Row(NamedTuple):
    title: str
    panels: list


class Dashboard(NamedTuple):
    uid: str
    title: str
    text: str
    rows: list


def quantiles(metric: str, by: str = "") -> list:
    """p50, p95 and p99 of a histogram; `by` adds a label."""
    labels, legend = (f"le, {by}", f" {{{{{by}}}}}") if by else ("le", "")
    return [(f"p{q}{legend}", f"histogram_quantile({q / 100}, sum by ({labels}) (rate({metric}_bucket{{@}}[$__rate_interval])))")
            for q in (50, 95, 99)]


def heatmap(metric: str) -> list:
    return [("{{le}}", f"sum by (le) (increase({metric}_bucket{{@}}[$__rate_interval]))")]


def ratio(above: str, below: str, by: str) -> str:
    return f"sum by ({by}) (rate({above}{{@}}[$__rate_interval])) / sum by ({by}) (rate({below}{{@}}[$__rate_interval]))"


BURN = ((0, "green"), (1, "orange"), (6, "red"))

OVERVIEW = Dashboard("spotd-overview", "spotd / Service overview", """\
Start here. The first row says whether users get what they were promised: a burn rate of 1 uses up the month's budget in a \
month, 14 in two days. The rows below say why: what is asked, how long it takes, and what the engine does.""", [
    Row("Service level", [
        Panel("Error budget burn rate", "Share of Generate, Complete and Append calls that failed for the server's reasons, over "
              "the budget of 0.5 %. Above 14.4 over an hour pages.",
              [("1 h {{model_name}}", 'spotd:slo_errors:ratio_rate1h{model_name=~"$model"} / 0.005'),
               ("6 h {{model_name}}", 'spotd:slo_errors:ratio_rate6h{model_name=~"$model"} / 0.005')], width=8, limits=BURN),
        Panel("First-token budget burn rate", "Share of answers whose first token took over 10 s, over the budget of 1 %.",
              [("1 h {{model_name}}", 'spotd:slo_slow_first_token:ratio_rate1h{model_name=~"$model"} / 0.01'),
               ("6 h {{model_name}}", 'spotd:slo_slow_first_token:ratio_rate6h{model_name=~"$model"} / 0.01')],
              width=8, limits=BURN),
        Panel("Instances by state", "How many servers are ready, draining or stalled.",
              [("{{state}}", "sum by (state) (spotd_engine_state{@})")], kind="stat", width=8),
    ]),
    Row("Traffic", [
        Panel("Calls by outcome", "Calls ended per second. RESOURCE_EXHAUSTED is load that was shed; INVALID_ARGUMENT and "
              "NOT_FOUND are the clients' own, and reasons that begin with TENANT_ a tenant's.",
              [("{{method}} {{code}} {{reason}}",
                "sum by (method, code, reason) (rate(spotd_requests_total{@}[$__rate_interval])) > 0")],
              unit="reqps", stacked=True),
        Panel("Refused calls", "Calls refused per second, by reason; docs/errors.md explains the reasons.",
              [("{{reason}}", "sum by (reason) (rate(spotd_requests_rejected_total{@}[$__rate_interval]))")], unit="reqps",
              stacked=True),
        Panel("Running and waiting", "Requests in prefill or decode, requests queued behind them, and RPCs of all kinds between "
              "arrival and status. A queue that never empties asks for another replica.",
              [("running", "sum(spotd_requests_running{@})"), ("waiting", "sum(spotd_requests_waiting{@})"),
               ("calls in progress", "sum(spotd_calls_in_progress{@})")]),
        Panel("Tokens that wait", "Prompt tokens of queued requests, and what running requests still have to prefill. Over the speed of "
              "prefill, this is the wait of the next one.",
              [("queued", "sum(spotd_waiting_tokens{@})"), ("in prefill", "sum(spotd_prefill_backlog_tokens{@})")],
              stacked=True),
        Panel("How generations end", "Finish reasons per second. Many context_full: raise max_context, or clients must rewind.",
              [("{{finish_reason}}", 'sum by (finish_reason) (rate(spotd_requests_total{@,finish_reason!=""}[$__rate_interval]))')],
              unit="reqps", stacked=True),
    ]),
    Row("Latency", [
        Panel("Time to first token", "From submission to the first token: queue, prefill of what is new, one step.",
              quantiles("spotd_time_to_first_token_seconds"), unit="s"),
        Panel("Time to first token, distribution", "Where the answers of each moment fall.",
              heatmap("spotd_time_to_first_token_seconds"), unit="s", kind="heatmap"),
        Panel("Between tokens", "Time between neighbouring tokens of an answer. It grows with the batch and with the density.",
              quantiles("spotd_inter_token_latency_seconds"), unit="s"),
        Panel("Time per output token", "Mean over each answer: what a reader feels as speed.",
              quantiles("spotd_request_time_per_output_token_seconds"), unit="s", width=8),
        Panel("Whole request", "From submission to the last token.", quantiles("spotd_e2e_request_latency_seconds"), unit="s",
              width=8),
        Panel("Tokenising", "Rendering the template and tokenising the input.", quantiles("spotd_tokenization_seconds"), unit="s",
              width=8),
        Panel("In the queue", "From submission to first scheduled.", quantiles("spotd_request_queue_time_seconds"), unit="s",
              width=8),
        Panel("In prefill", "From first scheduled to the prompt in the cache.",
              quantiles("spotd_request_prefill_time_seconds"), unit="s", width=8),
        Panel("In decode", "From first token to last token.", quantiles("spotd_request_decode_time_seconds"), unit="s", width=8),
    ]),
    Row("Tokens", [
        Panel("Prompt tokens by source", "Computed, found in the session's cache, found by their content (prefix), or computed again "
              "because the session had lost their KV (restored).",
              [("{{source}}", "sum by (source) (rate(spotd_prompt_tokens_total{@}[$__rate_interval]))")], stacked=True),
        Panel("Generated tokens", "Tokens generated per second, per instance.",
              [("{{instance}}", 'spotd:generation_tokens:rate5m{@}')], stacked=True),
        Panel("Context length", "Tokens of context that a request's first token saw.",
              heatmap("spotd_request_prompt_tokens"), kind="heatmap"),
        Panel("Answer length", "Tokens generated by a request.", heatmap("spotd_request_generation_tokens"), kind="heatmap"),
    ]),
    Row("What runs", [
        Panel("Versions", "The build of each instance.", [("{{instance}} {{version}}", "spotd_build_info{@}")], kind="table"),
        Panel("Models", "The model of each instance, its selector and policy, and what computes.",
              [("{{instance}}", "spotd_model_info{@}")], kind="table"),
    ]),
])

SPARSITY = Dashboard("spotd-sparsity", "spotd / Sparsity and quality", """\
What decode reads of the cache, and what the policy believes that covers. Density is the price, covered mass the promise: low \
density with high mass is what a good selector looks like; mass that falls while density stays is drift.""", [
    Row("Density", [
        Panel("Density", "KV blocks read over blocks visible, by policy. 1 is dense.",
              [("{{policy}}", ratio("spotd_kv_blocks_attended_total", "spotd_kv_blocks_visible_total", "policy"))],
              unit="percentunit", maximum=1),
        Panel("Density of requests, heat map", "How the requests of each moment spread. Two bands are two kinds of traffic.",
              heatmap("spotd_request_attended_fraction"), unit="percentunit", kind="heatmap"),
        Panel("Bytes read against dense", "Bytes of KV, selector keys and summaries that decode read, over what dense decode "
              "would have read. The difference to the density is the selector's own cost.",
              [("{{policy}}", ratio("spotd_kv_bytes_read_total", "spotd_kv_bytes_dense_equivalent_total", "policy"))],
              unit="percentunit", maximum=1),
        Panel("Bytes not read", "What sparse decoding saves, per second.",
              [("{{policy}}", "sum by (policy) (rate(spotd_kv_bytes_dense_equivalent_total{@}[$__rate_interval])) "
                "- sum by (policy) (rate(spotd_kv_bytes_read_total{@}[$__rate_interval]))")], unit="Bps"),
        Panel("Tokens read in a step", "Mean per request: what the budget rule bought.",
              quantiles("spotd_request_selected_tokens", "policy")),
        Panel("Dense steps", "Decode steps per second that read everything, by reason: the context was short, or it was asked for.",
              [("{{policy}} {{reason}}", "sum by (policy, reason) (rate(spotd_dense_steps_total{@}[$__rate_interval]))")],
              unit="ops", stacked=True),
    ]),
    Row("Quality", [
        Panel("Covered mass", "Attention mass that the policy believes it covered: the worst 5 % of the requests, and the median.",
              [("p5 {{policy}}", "histogram_quantile(0.05, sum by (le, policy) (rate(spotd_request_covered_mass_bucket{@}[$__rate_interval])))"),
               ("p50 {{policy}}", "histogram_quantile(0.5, sum by (le, policy) (rate(spotd_request_covered_mass_bucket{@}[$__rate_interval])))")],
              unit="percentunit", maximum=1),
        Panel("Covered mass, heat map", "The same, request by request.", heatmap("spotd_request_covered_mass"),
              unit="percentunit", kind="heatmap"),
        Panel("Covered mass, half-hour mean", "What the alert SpotdCoveredMassLow looks at.",
              [("{{model_name}} {{policy}}", 'spotd:covered_mass:mean30m{model_name=~"$model"}')], unit="percentunit", maximum=1,
              limits=((0, "red"), (0.8, "green"))),
        Panel("Recalled mass, audited", "True attention mass of the blocks that were read, computed densely for one layer of every "
              "audit_every_steps-th step: the worst 5 % and the median. What the policy believes is above; this is what is so.",
              [("p5 {{policy}}", "histogram_quantile(0.05, sum by (le, policy) (rate(spotd_audit_recalled_mass_bucket{@}[$__rate_interval])))"),
               ("p50 {{policy}}", "histogram_quantile(0.5, sum by (le, policy) (rate(spotd_audit_recalled_mass_bucket{@}[$__rate_interval])))")],
              unit="percentunit", maximum=1),
        Panel("Recalled mass, heat map", "The same, audit by audit.", heatmap("spotd_audit_recalled_mass"),
              unit="percentunit", kind="heatmap"),
        Panel("Output error, audited", "Distance of the layer's output from the dense one, relative.",
              quantiles("spotd_audit_output_error", "policy"), unit="percentunit"),
        Panel("Recalled mass, half-hour mean", "What the alert SpotdRecalledMassLow looks at, and sessions per second that turned to "
              "dense decoding because audits found too little.",
              [("{{model_name}} {{policy}}", 'spotd:recalled_mass:mean30m{model_name=~"$model"}'),
               ("turned dense", "sum(rate(spotd_audit_fallbacks_total{@}[$__rate_interval]))")]),
        Panel("Density now, by instance", "What the alert SpotdDensityHigh looks at.",
              [("{{instance}} {{policy}}", "spotd:density:ratio_rate5m{@}")], unit="percentunit", maximum=1),
    ]),
])

KV = Dashboard("spotd-kv", "spotd / KV store", """\
Who holds the cache. Idle sessions lose their KV when others need the room, and compute it again when they come back: watch \
reclaimed tokens against computed ones.""", [
    Row("Room", [
        Panel("KV blocks", "Blocks by state; together they are the capacity. Shared blocks are held by several sessions; kept ones by "
              "none: they are given up first.",
              [("{{state}}", "sum by (state) (spotd_kv_blocks{@})")], stacked=True),
        Panel("KV in use", "Share of the blocks in use. Above 95 % idle sessions lose their KV.",
              [("{{instance}}", "spotd_kv_usage_ratio{@}")], unit="percentunit", maximum=1,
              limits=((0, "green"), (0.9, "orange"), (0.95, "red"))),
        Panel("KV bytes in use", "Blocks in use times their bytes.",
              [("{{instance}}", 'sum by (instance) (spotd_kv_blocks{@,state!~"free|kept"}) * on (instance) '
                "max by (instance) (spotd_kv_block_bytes{@})")], unit="bytes"),
        Panel("KV in use in four hours", "If the last hour goes on. Above 1: idle sessions will lose their KV.",
              [("{{instance}}", "predict_linear(spotd_kv_usage_ratio{@}[1h], 4 * 3600)")], unit="percentunit",
              limits=((0, "green"), (1, "red"))),
    ]),
    Row("Sessions", [
        Panel("Sessions", "Sessions held.", [("{{instance}}", "sum by (instance) (spotd_sessions{@})")], stacked=True),
        Panel("Tokens in sessions", "Tokens of all sessions, with or without KV.",
              [("{{instance}}", "sum by (instance) (spotd_session_tokens{@})")], stacked=True),
        Panel("Tokens a session", "Mean length of a session.",
              [("{{instance}}", "sum by (instance) (spotd_session_tokens{@}) / (sum by (instance) (spotd_sessions{@}) > 0)")]),
        Panel("Forks, rewinds, ends", "Sessions forked, rewound, and ended by their time to live, per second. Forks and rewinds copy "
              "no KV.",
              [("forks", "sum(rate(spotd_session_forks_total{@}[$__rate_interval]))"),
               ("rewinds", "sum(rate(spotd_session_rewinds_total{@}[$__rate_interval]))"),
               ("expired", "sum(rate(spotd_sessions_expired_total{@}[$__rate_interval]))")], unit="ops"),
        Panel("Shared beginnings", "Of the prompt tokens looked up by their content among a tenant's beginnings, the share found.",
              [("{{instance}}", ratio("spotd_prefix_hits_total", "spotd_prefix_queries_total", "instance"))], unit="percentunit",
              maximum=1),
        Panel("Blocks to share", "Whole KV blocks that can be found by their content, and those per second that were kept after their "
              "last session and given up to others.",
              [("blocks {{instance}}", "sum by (instance) (spotd_prefix_blocks{@})"),
               ("given up {{instance}}", "sum by (instance) (rate(spotd_kv_kept_given_up_total{@}[$__rate_interval]))")]),
    ]),
    Row("Pressure", [
        Panel("Sessions reclaimed", "Idle sessions per second whose KV was dropped to make room.",
              [("{{instance}}", "sum by (instance) (rate(spotd_kv_reclaims_total{@}[$__rate_interval]))")], unit="ops"),
        Panel("Tokens dropped and computed", "Tokens of KV dropped, tokens prefilled for the first time, and tokens prefilled again: the "
              "last are what dropping costs.",
              [("dropped", "sum(rate(spotd_kv_reclaimed_tokens_total{@}[$__rate_interval]))"),
               ("computed", 'sum(rate(spotd_prompt_tokens_total{@,source="computed"}[$__rate_interval]))'),
               ("restored", 'sum(rate(spotd_prompt_tokens_total{@,source="restored"}[$__rate_interval]))')]),
        Panel("Preemptions", "Running requests per second that gave up their KV to others, and the tokens computed again after that.",
              [("requests", "sum(rate(spotd_preemptions_total{@}[$__rate_interval]))"),
               ("tokens", "sum(rate(spotd_preempted_tokens_total{@}[$__rate_interval]))")], unit="ops"),
        Panel("Copies on write", "Blocks per second copied because a fork shared them.",
              [("{{instance}}", "sum by (instance) (rate(spotd_kv_copies_on_write_total{@}[$__rate_interval]))")], unit="ops"),
    ]),
])

CAPACITY = Dashboard("spotd-capacity", "spotd / Capacity", """\
How much more fits, and what runs out first: computing (queue time, tokens per step), KV room, or the process's own memory.""", [
    Row("Computing", [
        Panel("Share of time in the queue", "Of a request's time until its last token, the part spent waiting: saturation. "
              "Above a tenth, add a replica.",
              [("{{instance}}", ratio("spotd_request_queue_time_seconds_sum", "spotd_e2e_request_latency_seconds_sum", "instance"))],
              unit="percentunit", maximum=1, limits=((0, "green"), (0.1, "orange"), (0.3, "red"))),
        Panel("Engine steps", "Steps per second, prefill chunks and decode batches.",
              [("{{instance}}", "sum by (instance) (rate(spotd_engine_steps_total{@}[$__rate_interval]))")], unit="ops"),
        Panel("Tokens generated in a step", "How full the decode batches are.",
              [("{{instance}}", "sum by (instance) (rate(spotd_generation_tokens_total{@}[$__rate_interval])) / "
                "sum by (instance) (rate(spotd_engine_steps_total{@}[$__rate_interval]))")]),
        Panel("Age of the running step", "How long the step that runs has taken, and how long ago the last one ended. Only the first "
              "tells hung from idle.",
              [("running {{instance}}", "spotd_engine_step_age_seconds{@}"),
               ("last {{instance}}", "time() - spotd_engine_last_step_timestamp_seconds{@}")],
              unit="s", limits=((0, "green"), (30, "red"))),
        Panel("Heartbeat", "Rounds of the engine's loop per second. At 0 the loop is stuck.",
              [("{{instance}}", "sum by (instance) (rate(spotd_engine_beats_total{@}[$__rate_interval]))")], unit="ops"),
        Panel("Speed of prefill", "Of the latest chunks, per instance. It falls with the length of the context.",
              [("{{instance}}", "spotd_prefill_tokens_per_second{@}")]),
        Panel("Tokens a second", "Prefill and decode of all instances.",
              [("prefill", 'sum(rate(spotd_prompt_tokens_total{@,source=~"computed|restored"}[$__rate_interval]))'),
               ("decode", "sum(rate(spotd_generation_tokens_total{@}[$__rate_interval]))")]),
        Panel("CPU", "Cores that the process keeps busy.",
              [("{{instance}}", "rate(process_cpu_seconds_total{instance=~\"$instance\"}[$__rate_interval]) "
                "and on (instance) spotd_build_info{@}")]),
    ]),
    Row("Room", [
        Panel("Sessions that still fit", "Free KV over the KV of a mean session. Fewer than a handful: idle sessions are about to "
              "lose theirs.",
              [("{{instance}}", 'sum by (instance) (spotd_kv_blocks{@,state=~"free|kept"}) / on (instance) '
                '(sum by (instance) (spotd_kv_blocks{@,state!~"free|kept"}) / on (instance) sum by (instance) (spotd_sessions{@}) > 0)')]),
        Panel("Memory of the process", "Resident and virtual. The KV cache is part of it.",
              [("resident {{instance}}", "process_resident_memory_bytes{instance=~\"$instance\"} and on (instance) spotd_build_info{@}"),
               ("virtual {{instance}}", "process_virtual_memory_bytes{instance=~\"$instance\"} and on (instance) spotd_build_info{@}")],
              unit="bytes"),
        Panel("Open files", "Descriptors, most of them connections.",
              [("{{instance}}", "process_open_fds{instance=~\"$instance\"} and on (instance) spotd_build_info{@}")]),
        Panel("Uptime", "Since the process started. Its sessions are no older.",
              [("{{instance}}", "time() - process_start_time_seconds{instance=~\"$instance\"} and on (instance) spotd_build_info{@}")],
              unit="s"),
    ]),
])

DASHBOARDS = [OVERVIEW, SPARSITY, KV, CAPACITY]

# Metrics on no panel, and why.
NOT_SHOWN = {}
