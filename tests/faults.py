"""`make test-faults`: every kind of fault that was tried, the tests that stand for it, and how they ended: docs/faults.md."""

from __future__ import annotations

import re
import signal
import sys
from collections import Counter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
LONGEST_S = 600  # of one trial, on a busy machine
PAGE = ROOT / "docs" / "faults.md"
LOAD, OBSERVE, TRACES = "loadgen/test_faults.py", "observe/test_prometheus.py", "loadgen/test_trace_input.py"
FLEET = "observe/test_fleet_answers.py"
SERVE, BOUNDS, SOUND = "sim/test_server.py", "sim/test_bounds.py", "analysis/test_sound.py"

# where: kind -> tests; all their rows count
KINDS: dict[str, dict[str, tuple[str, ...]]] = {
    "The server under load": {
        "resets, cuts, silence, single bytes, no HTTP, errors": ("loadgen/test_client.py::test_each_way_to_fail_has_its_class", "loadgen/test_stream.py::test_classes"),
        "429, 503 and closed connections in a closed loop": (f"{LOAD}::test_users_wait_after_failures",),
        "a tokenizer that counts nothing": (f"{LOAD}::test_a_tokenizer_that_counts_nothing_is_not_believed",),
        "no server, no model, nested model lists, redirections": ("loadgen/test_client.py::test_a_server_that_is_not_one_is_named_before_the_load", "loadgen/test_endpoint.py::test_a_server_that_cannot_be_loaded_is_named_before_the_load"),
        "a missing or expired key": ("loadgen/test_access.py::test_a_key_that_expires_is_named_after_the_load_and_its_echo_is_hidden", "loadgen/test_access.py::test_a_refused_key_of_the_environment_is_named_before_the_load"),
        "an odd answer, of sixteen kinds": (f"{LOAD}::test_one_odd_answer_in_ten", f"{LOAD}::test_odd_answers_of_every_kind_are_incomplete_and_the_others_ok"),
        "compressed bodies, odd heads and lengths, events and ends that say an error": ("loadgen/test_stream.py::test_a_refusal_and_an_odd_head_have_a_reason_that_can_be_read", "loadgen/test_stream.py::test_an_odd_answer_is_incomplete_with_the_reason_and_keeps_its_tokens"),
        "chunk sizes that are none, answers and interim answers without end": ("loadgen/test_stream.py::test_a_line_that_is_no_chunk_size_ends_the_answer_with_its_text", "loadgen/test_stream.py::test_chunks_whose_lines_end_with_lf_alone_are_none", "loadgen/test_client.py::test_a_chunk_size_that_is_none_is_found_in_the_silence_after_it", "loadgen/test_client.py::test_an_answer_without_end_is_cut"),
        "a stream that has said its end and does not end": ("loadgen/test_client.py::test_a_stream_that_has_said_done_is_over_though_its_framing_waits",),
        "names, texts and counts that no server has": ("loadgen/test_endpoint.py::test_a_server_s_texts_are_in_a_header_that_can_be_read_and_asked_as_they_are", "loadgen/test_endpoint.py::test_a_name_is_shown_such_that_it_can_be_printed_and_is_asked_as_it_is", "loadgen/test_endpoint.py::test_a_count_that_no_server_has_is_not_told", "loadgen/test_endpoint.py::test_models_that_name_each_other_as_parent_are_several_models"),
        "lists and pages whose reading would take minutes": ("loadgen/test_endpoint.py::test_a_list_of_thousands_and_a_page_of_one_long_word_are_read_at_once", "loadgen/test_endpoint.py::test_a_list_that_is_too_long_to_read_is_said_to_be"),
        "terms of the SLO that nothing tells of": ("loadgen/test_probing.py::test_a_term_that_nobody_could_judge_is_not_said_to_hold",),
    },
    "The life of a load test": {
        "workers that are killed": (f"{LOAD}::test_killed_workers_are_named_and_exit_code_1",),
        "a full disk": (f"{LOAD}::test_a_full_disk_stops_the_run_and_keeps_what_was_written",),
        "a limit on file sizes": (f"{LOAD}::test_a_file_size_limit_keeps_every_row_so_far",),
        "a run directory that is deleted": (f"{LOAD}::test_a_deleted_run_directory_ends_the_run",),
        "parts that vanish while it runs": (f"{LOAD}::test_a_part_that_is_taken_away_is_missed_at_the_end",),
        "a run directory whose name is no UTF-8": ("loadgen/test_records.py::test_a_run_directory_whose_name_is_no_utf8_holds_its_rows",),
        "a header that is spoilt or taken away meanwhile": ("loadgen/test_records.py::test_a_header_that_is_spoilt_while_the_run_goes_on_is_written_again_and_said_to_be",),
        "a terminal that is closed, output that nobody takes": (f"{LOAD}::test_a_terminal_that_is_closed_is_an_interrupt", f"{LOAD}::test_a_summary_that_nobody_can_read_is_no_failure_of_the_run"),
        "parts of an older run": (f"{LOAD}::test_parts_of_an_older_run_are_refused",),
        "requests that nothing answers until the end": (f"{LOAD}::test_requests_that_are_cut_off_after_the_grace_are_counted_and_said",),
        "a clock that is set meanwhile": (f"{LOAD}::test_a_clock_that_is_set_meanwhile_changes_no_duration", f"{OBSERVE}::test_a_window_is_asked_for_by_the_clock_that_the_client_has_now"),
        "too few descriptors": (f"{LOAD}::test_without_descriptors_requests_are_connection_errors_and_a_failing_server_is_not_hammered",),
        "Ctrl-C and SIGTERM: in the load, in the grace, near the end": (f"{LOAD}::test_an_interrupt_at_any_time_leaves_a_row_for_each_request_that_was_due", f"{LOAD}::test_an_interrupt_before_the_load_is_one_sentence"),
        "an exception that nobody foresaw": (f"{LOAD}::test_a_half_that_breaks_ends_the_run_and_keeps_what_was_recorded", f"{LOAD}::test_an_exception_that_nobody_foresaw_and_an_interrupt_in_the_grace_end_the_run"),
    },
    "Collecting": {
        "bad answers of a Prometheus or its proxy": (f"{OBSERVE}::test_a_bad_answer_is_a_sentence", "observe/test_collect.py::test_a_page_that_is_not_prometheus_is_named"),
        "values that are no numbers": (f"{OBSERVE}::test_warnings_and_values_that_are_no_numbers_are_notes", f"{OBSERVE}::test_a_sample_beyond_floats_is_left_out_and_said_to_be"),
        "numbers, lists and vectors beyond measure": (f"{OBSERVE}::test_numbers_and_lists_beyond_measure_are_a_sentence", f"{OBSERVE}::test_names_that_are_no_list_are_asked_for_plainly", f"{OBSERVE}::test_a_vector_that_is_none_is_not_prometheus"),
        "a redirection to where nobody answers": (f"{OBSERVE}::test_where_a_redirection_leads_is_said_where_nobody_answers",),
        "silence, and a byte now and then": (f"{OBSERVE}::test_a_server_that_sends_a_byte_now_and_then_is_given_up", f"{OBSERVE}::test_a_silent_server_is_waited_for_once", f"{OBSERVE}::test_redirections_have_one_time_together_and_their_bodies_are_not_read"),
        "a run directory that goes away under the scraper": ("observe/test_collect.py::test_rows_that_cannot_be_written_are_kept_and_told",),
        "signals one after another": ("observe/test_collect.py::test_signals_one_after_another_leave_the_rows_that_were_read",),
        "histograms, moments and HPAs of production that cannot be": ("history/test_odd_answers.py::test_a_histogram_that_is_none_tells_no_lengths", "history/test_odd_answers.py::test_lengths_whose_sum_is_below_zero_are_none", "history/test_odd_answers.py::test_moments_that_are_none_are_not_prometheus", "history/test_odd_answers.py::test_an_hpa_of_numbers_that_cannot_be_is_not_taken"),
        "a Prometheus that is not there": ("observe/test_collect.py::test_an_unreachable_prometheus_is_a_source_unavailable",),
        "a step that is refused": (f"{OBSERVE}::test_a_fractional_step_is_a_number_and_becomes_whole_where_it_is_refused",),
        "two servers that tell the same pods": (f"{OBSERVE}::test_twin_servers_tell_a_pod_once_and_the_fuller_is_taken",),
        "pods of one name in two places, thousands of pods": (f"{OBSERVE}::test_pods_of_one_name_in_two_namespaces_are_two_replicas", f"{OBSERVE}::test_many_pods_cost_no_more_than_their_rows"),
        "counters that fall, pods that vanish": (f"{OBSERVE}::test_a_counter_that_falls", "observe/test_collect.py::test_scraping_survives_a_pod_that_goes_away_and_a_restart"),
        "windows that cannot be": (f"{OBSERVE}::test_a_window_that_cannot_be_is_a_sentence",),
        "a private certificate": (f"{OBSERVE}::test_a_private_certificate_is_named_and_trusted_on_request",),
        "token files and addresses that cannot be": (f"{OBSERVE}::test_bad_options_are_bad_input",),
        "pages of metrics that are none": ("observe/test_pages.py::test_a_page_without_a_row_says_what_is_there", "observe/test_pages.py::test_a_number_that_cannot_be_is_none_and_is_said", "observe/test_collect.py::test_scraping_something_else_is_refused"),
        "facts of too many digits": ("observe/test_vllm_metrics.py::test_a_fact_of_too_many_digits_is_left_out",),
    },
    "A cluster on a bad day": {
        "a metric that cannot be read: meanwhile, for hours, one of two": ("check/test_bad_day.py::test_an_unreadable_metric_is_said_at_once_and_ends_the_check_after_three_syncs", "check/test_bad_day.py::test_a_metric_that_was_unreadable_for_hours_is_given_the_time_that_a_first_value_takes", "check/test_bad_day.py::test_one_unreadable_metric_of_two_does_not_end_the_check"),
        "an HPA that is deleted, or replaced": ("check/test_bad_day.py::test_an_hpa_that_is_deleted_meanwhile_is_called_deleted_at_its_time", "check/test_bad_day.py::test_an_hpa_that_is_replaced_goes_on_being_watched"),
        "an API server that goes away": ("check/test_bad_day.py::test_what_falls_in_an_outage_is_named_with_its_times_and_not_judged", "check/test_bad_day.py::test_an_outage_that_lasts_to_the_end_is_a_gap_and_no_crash"),
        "events that are none": ("check/test_bad_day.py::test_an_event_that_is_none_is_a_gap_and_the_watch_goes_on",),
        "an address that is no API server, lists and pages that are none": ("lint/test_lint_cluster.py::test_what_is_no_list_of_objects_is_a_sentence", "lint/test_lint_cluster.py::test_what_answers_404_to_a_kind_that_every_cluster_has_is_no_cluster", "lint/test_lint_cluster.py::test_a_namespace_that_holds_nothing_is_not_called_fine", "kube/test_live.py::test_an_address_that_redirects_is_said_to", "kube/test_live.py::test_a_metric_that_is_none_is_a_cluster_error"),
        "kubeconfigs that cannot be read": ("kube/test_live.py::test_a_kubeconfig_that_cannot_be_read_is_one_sentence_without_its_secrets", "kube/test_live.py::test_a_kubeconfig_that_is_a_pipe_is_not_waited_for"),
        "a node that is lost": ("check/test_bad_day.py::test_a_node_that_is_not_ready_is_named_and_no_readiness_probe", "check/test_bad_day.py::test_without_rights_on_nodes_the_pods_events_name_the_node", "check/test_bad_day.py::test_a_pod_that_lost_ready_is_unready_since_then_and_not_since_its_start"),
    },
    "Files": {
        "run directories that cannot be": (f"{SOUND}::test_a_run_that_cannot_be_is_a_sentence_or_a_page",),
        "evidence of a check that was spoilt": ("kube/test_cluster.py::test_evidence_that_was_spoilt_is_a_sentence",),
        "prompt files that cannot be meant": ("loadgen/test_prompts.py::test_a_bad_prompt_file_is_named_by_line",),
        "runs that are incomplete": ("pages/test_run_page.py::test_an_incomplete_run_gives_a_page_that_says_what_is_missing",),
        "traces that cannot be meant": (f"{TRACES}::test_a_trace_that_cannot_be_meant_is_one_sentence", f"{TRACES}::test_only_regular_files_are_read"),
        "months between two rows of a trace": (f"{TRACES}::test_months_without_a_gap_are_counted_in_few_bins",),
        "load files that cannot be meant": (f"{TRACES}::test_a_load_file_that_cannot_be_meant_is_one_sentence",),
        "YAML and JSON: nested, aliased, broken, of other kinds": ("analysis/test_files.py::test_yaml_that_is_no_mapping_is_one_sentence", "analysis/test_files.py::test_json_that_is_no_object_is_one_sentence", "analysis/test_files.py::test_a_path_that_is_no_text_file_is_one_sentence"),
        "names that no file can have": ("test_first_screen.py::test_a_name_that_no_file_can_have_is_a_sentence",),
        "access logs that cannot be meant": ("history/test_access_log.py::test_what_is_no_access_log_is_a_sentence", "history/test_access_log.py::test_too_little_time_and_a_wrong_column_are_named"),
        "two autoscalers in one file": ("test_refused_early.py::test_of_two_autoscalers_in_a_file_none_is_taken",),
        "fields of a profile that cannot be": (f"{BOUNDS}::test_a_field_of_a_profile_that_cannot_be_is_told_with_the_file_and_no_secret",),
        "pipes in the place of files": ("analysis/test_files.py::test_a_pipe_is_not_waited_for", "analysis/test_files.py::test_a_key_is_read_from_a_pipe_that_somebody_writes_to_and_not_waited_for_elsewhere"),
        "digits of other scripts, underscores": ("analysis/test_numbers.py::test_a_number_is_written_in_ascii_digits_without_underscores", "kube/test_cluster.py::test_digits_that_kubernetes_refuses_are_no_quantity"),
        "texts that move a terminal's cursor": ("test_first_screen.py::test_what_others_wrote_moves_no_cursor",),
        "a sentence about a name without end": ("analysis/test_errors.py::test_a_sentence_of_a_name_without_end_keeps_its_begin_and_its_next_step",),
        "outputs that cannot be written": ("test_verbs.py::test_an_output_that_cannot_be_written", "analysis/test_files.py::test_what_does_not_fit_leaves_what_was_there_and_nothing_beside_it"),
        "runs to compare whose answers came in one piece": ("test_regression.py::test_a_percentile_of_0_is_not_judged",),
        "recommendations of another form": ("recommend/test_cost.py::test_a_recommendation_of_another_form_is_refused",),
        "what the fuzzers found": ("fuzz/test_fuzz.py::test_a_seed_is_answered_or_refused_with_a_sentence",),
    },
    "The simulator": {
        "prompts beyond the model's length or the cache": (f"{BOUNDS}::test_the_models_length_bounds_a_request_as_in_vllm", f"{BOUNDS}::test_a_request_beyond_the_cache_is_refused_alike"),
        "a cold start without end, true for a number": (f"{BOUNDS}::test_a_cold_start_without_end_is_refused_in_the_profile", f"{BOUNDS}::test_true_is_no_number_of_a_profile"),
        "a maximum of a thousand million replicas": (f"{BOUNDS}::test_a_max_of_a_thousand_million_changes_nothing_and_takes_no_memory", f"{BOUNDS}::test_more_replicas_than_are_simulated_are_refused_when_they_are_asked_for"),
        "targets beyond 64 bits": (f"{BOUNDS}::test_a_target_that_nothing_reaches_keeps_the_fleet_small",),
        "a queue that no memory holds": (f"{BOUNDS}::test_a_queue_that_no_memory_holds_ends_the_simulation",),
        "traffic that nobody would wait for": ("recommend/test_cost.py::test_what_nobody_would_wait_for_is_refused_with_what_would_fit", "recommend/test_cost.py::test_a_search_that_would_take_days_is_refused_before_it_begins", "recommend/test_cost.py::test_a_peak_that_is_none_is_refused"),
    },
    "The fleet over HTTP": {
        "requests that would cost it too much": (f"{SERVE}::test_what_would_cost_the_server_too_much_or_is_no_request_gets_a_sentence", f"{SERVE}::test_no_body_is_an_error_of_the_server"),
        "bodies that are not compressed as they say": (f"{SERVE}::test_a_body_that_is_not_compressed_as_it_says_is_a_bad_request",),
        "clients that go away": (f"{SERVE}::test_requests_of_clients_that_go_away_do_not_wait_for_ever", f"{SERVE}::test_requests_of_clients_that_go_away_before_a_replica_is_ready_are_forgotten"),
        "more connections than it takes": (f"{SERVE}::test_a_connection_too_many_is_told_so",),
        "web pages of elsewhere": (f"{SERVE}::test_only_its_own_pages_may_post_to_it", f"{SERVE}::test_a_fleet_on_loopback_answers_only_to_names_of_this_machine"),
        "addresses and speeds that cannot be": ("test_first_screen.py::test_an_address_that_cannot_be_had_is_a_sentence", "test_first_screen.py::test_a_speed_that_is_none_is_a_sentence"),
        "something else where a fleet was meant": (f"{FLEET}::test_what_is_no_fleet_is_said_to_be_none", f"{FLEET}::test_a_row_that_is_none_is_a_sentence", f"{FLEET}::test_a_value_that_is_no_quantity_is_a_sentence", f"{FLEET}::test_a_fleet_that_does_not_answer_is_named_with_the_reason", f"{FLEET}::test_a_fleet_that_sends_a_byte_now_and_then_is_given_up"),
        "what is no HTTP, and requests behind it": (f"{SERVE}::test_what_is_no_http_is_answered_400_and_ends_the_connection",),
        "requests that do not become whole": (f"{SERVE}::test_a_request_that_does_not_become_whole_is_closed", f"{SERVE}::test_a_body_that_comes_byte_by_byte_has_one_time"),
        "signals with streams under way": (f"{SERVE}::test_a_signal_ends_it_with_streams_under_way",),
    },
    "Secrets": {
        "a secret in every input of every verb": ("test_secrets.py::test_no_secret_is_said_or_written",),
        "keys in the query of an address": (f"{OBSERVE}::test_what_may_be_a_key_in_a_query_is_hidden_and_the_reason_is_not",),
        "on Locust's pages and in its exports": ("loadgen/test_access.py::test_locusts_pages_and_downloads_show_no_secret",),
        "markup in what a run holds": ("pages/test_run_page.py::test_texts_of_a_run_cannot_become_markup",),
    },
}  # fmt: skip


class Outcomes:
    """A plugin of pytest: how each test ended, by its name without the row."""

    def __init__(self) -> None:
        self.of: dict[str, Counter[str]] = {}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when == "call" or report.outcome != "passed":
            name = report.nodeid.partition("[")[0].removeprefix("tests/")
            self.of.setdefault(name, Counter())[report.outcome] += 1


def shown() -> dict[str, str]:
    """Kind -> outcome, as the page has them."""
    if not PAGE.exists():
        return {}
    return dict(re.findall(r"^\| (.+) \| (.+) \|$", PAGE.read_text(encoding="utf-8"), re.MULTILINE))


def table(outcomes: dict[str, str]) -> str:
    """The page: a row per kind, with its outcome."""
    lines = [
        "# Faults",
        "",
        "What was done to this software on purpose, and what became of it; each against real processes, servers and files.",
        "*held*: it ended by itself, said why in a sentence, lost nothing that was measured, left nothing behind. The number is",
        "that of the trials. Written by `make test-faults`; the tests of each kind are named in `tests/faults.py`.",
    ]
    for where, kinds in KINDS.items():
        lines += ["", f"## {where}", "", "| fault | outcome |", "|---|---|"]
        lines += [f"| {kind} | {outcomes.get(kind, 'not tried')} |" for kind in kinds]
    return "\n".join([*lines, ""])


def _outcome(counted: Counter[str]) -> str:
    if not counted:
        return "not tried"
    if counted["failed"]:
        return f"{counted['failed']} of {counted.total()} did not hold"
    held = f"held, {counted['passed']}" if counted["passed"] else ""
    skipped = f"{counted['skipped']} cannot be tried here" if counted["skipped"] else ""
    return "; ".join(part for part in (held, skipped) if part)


def main() -> int:
    """Run the tests of every kind, or of the named headings and kinds; print and write the table; pytest's exit code."""
    for number in (signal.SIGINT, signal.SIGTERM):  # ends the trials, and writes down those so far
        signal.signal(number, signal.default_int_handler)
    chosen = sys.argv[1:] or list(KINDS)
    kinds = {
        kind: tests
        for where in KINDS
        for kind, tests in KINDS[where].items()
        if where in chosen or kind in chosen
    }
    nodes = dict.fromkeys(str(ROOT / "tests" / test) for tests in kinds.values() for test in tests)
    found = Outcomes()
    options = ["-o", "addopts=--import-mode=importlib --strict-markers", "-q", "-p", "no:cacheprovider"]
    code = pytest.main([*options, f"--timeout={LONGEST_S}", *nodes], plugins=[found])
    said = {
        kind: _outcome(sum((found.of.get(test, Counter()) for test in tests), Counter()))
        for kind, tests in kinds.items()
    }
    PAGE.write_text(table(shown() | said), encoding="utf-8")
    print(PAGE.read_text(encoding="utf-8"))
    return int(code)


if __name__ == "__main__":
    sys.exit(main())
