"""A schedule in a cluster: KEDA's cron triggers, or CronJobs that patch one HPA, say at every minute what the windows say."""

import json
from dataclasses import replace

import pytest
import typer

from autoscale.cli import app
from autoscale.deploy import Options, objects, scaling
from autoscale.deploy.targets import plan
from autoscale.deploy.timetable import _changes, cron_triggers
from autoscale.deploy.yaml_out import plain_yaml
from autoscale.keda.cron import CronTrigger, parse_schedule
from autoscale.lint.linter import lint_objects
from autoscale.profiles import load
from autoscale.recommendation import Recommendation, parse_recommendation
from autoscale.schedule import EVERY_DAY, WEEKEND, Scheduled, Window, minimum_at
from autoscale.signal_target import SignalTarget
from loadgen.plan.time_units import WEEKDAYS

PROFILE = load("llama-3.1-8b-1xl4")
MONDAY_S = 4 * 86_400  # of the epoch's second week, as 1970 began on a Thursday
SCHEDULES = [
    pytest.param((Window(WEEKDAYS, 465, 1200, 3),), id="office hours"),
    pytest.param(
        (Window(EVERY_DAY, 0, 360, 2), Window(EVERY_DAY, 345, 1440, 4)), id="two windows, every day"
    ),
    pytest.param((Window(WEEKDAYS, 0, 1440, 3), Window(WEEKEND, 600, 900, 2)), id="weekdays all day"),
]


def made(windows) -> Recommendation:
    target = SignalTarget("running", "24", metric="m")
    found = Scheduled(
        windows, 1, "running 24", (target,), None, 5, recommended=True, sentence="min 3 and so on"
    )
    return Recommendation(
        "autoscale", profile=PROFILE.name, metrics=(replace(target, quantity="18"),), min_replicas=2, max_replicas=5,
        schedule=found,
    )  # fmt: skip


@pytest.mark.parametrize("windows", SCHEDULES)
def test_cron_triggers_ask_for_the_minimum_at_every_quarter(windows) -> None:
    triggers = [
        CronTrigger.from_trigger(i, "", "AverageValue", plain_yaml(one)["metadata"])
        for i, one in enumerate(cron_triggers(windows))
    ]
    for minute in range(7, 7 * 1440, 15):
        asked = max(trigger.value(MONDAY_S + 60 * minute).milli // 1000 for trigger in triggers)
        assert max(asked, 1) == minimum_at(windows, 1, minute), divmod(minute, 1440)


@pytest.mark.parametrize("windows", SCHEDULES)
def test_the_last_patch_is_the_minimum_at_every_quarter(windows) -> None:
    changes = sorted(
        (day * 1440 + minute, least)
        for minute, least, days in _changes(plan(PROFILE, made(windows)))
        for day in days
    )
    for minute in range(7, 7 * 1440, 15):
        before = [least for at, least in changes if at <= minute] or [changes[-1][1]]
        assert before[-1] == minimum_at(windows, 1, minute), divmod(minute, 1440)


def test_the_account_may_patch_one_hpa_and_nothing_else() -> None:
    found = objects(PROFILE, made((Window(WEEKDAYS, 465, 1200, 3),)), "stackdriver", Options())
    (role,) = [o for o in found if o["kind"] == "Role" and o["metadata"]["name"] == "autoscale-schedule"]
    assert role["rules"] == [
        {
            "apiGroups": ["autoscaling"],
            "resources": ["horizontalpodautoscalers"],
            "resourceNames": [PROFILE.deploy.hpa_name],
            "verbs": ["get", "patch"],
        }
    ]
    jobs = {o["spec"]["schedule"]: o for o in found if o["kind"] == "CronJob"}
    assert set(jobs) == {"45 7 * * 1-5", "0 20 * * 1-5"}
    for schedule, least in (("45 7 * * 1-5", 3), ("0 20 * * 1-5", 1)):
        (container,) = jobs[schedule]["spec"]["jobTemplate"]["spec"]["template"]["spec"]["containers"]
        assert json.loads(container["args"][-1].removeprefix("--patch=")) == {"spec": {"minReplicas": least}}
        parse_schedule(schedule)
    (hpa,) = [o for o in found if o["kind"] == "HorizontalPodAutoscaler"]
    assert hpa["spec"]["minReplicas"] == 1
    assert hpa["spec"]["metrics"][0]["pods"]["target"]["averageValue"] == "24"


def test_with_keda_the_windows_are_triggers_of_the_scaled_object() -> None:
    found = plan(PROFILE, made((Window(WEEKDAYS, 465, 1200, 3),)))
    scaled = plain_yaml(scaling.scaled_object(PROFILE, Options(), found))
    assert [t["type"] for t in scaled["spec"]["triggers"]] == ["prometheus", "cron"]
    assert scaled["spec"]["minReplicaCount"] == 1


@pytest.mark.parametrize("path", ["stackdriver", "keda"])
def test_the_linter_finds_no_more_than_in_the_set_without_a_schedule(path) -> None:
    asked = made((Window(WEEKDAYS, 465, 1200, 3),))
    without = replace(asked, schedule=None)
    codes = [
        sorted(
            f.code
            for f in lint_objects(objects(PROFILE, one, path, Options())).findings
            if f.severity == "error"
        )
        for one in (asked, without)
    ]
    assert codes[0] == codes[1] == []


def test_a_schedule_that_does_not_pay_is_not_written() -> None:
    asked = made((Window(WEEKDAYS, 465, 1200, 3),))
    asked = replace(asked, schedule=replace(asked.schedule, recommended=False))
    found = plan(PROFILE, asked)
    assert (found.windows, found.min_replicas, found.targets[0].quantity) == ((), 2, "18")


def test_what_is_written_is_read_again() -> None:
    asked = made((Window(WEEKDAYS, 465, 1200, 3),))
    assert parse_recommendation(asked.as_json()).schedule.windows == asked.schedule.windows


def test_the_weekly_watch_has_no_right_and_the_commands_of_its_verbs() -> None:
    image = Options(watch_image="registry.example.com/llm-autoscale:1")
    found = objects(PROFILE, made((Window(WEEKDAYS, 465, 1200, 3),)), None, image)
    (job,) = [o for o in found if o["kind"] == "CronJob" and o["metadata"]["name"] == "autoscale-watch"]
    pod = job["spec"]["jobTemplate"]["spec"]["template"]["spec"]
    assert pod["automountServiceAccountToken"] is False
    bound = [s["name"] for o in found if o["kind"].endswith("RoleBinding") for s in o["subjects"]]
    assert pod["serviceAccountName"] not in bound
    verbs = typer.main.get_command(app).commands
    for container in (*pod["initContainers"], *pod["containers"]):
        verb, *arguments = container["args"]
        known = {option for parameter in verbs[verb].params for option in parameter.opts}
        assert {word for word in arguments if word.startswith("--")} <= known
    assert [f.code for f in lint_objects(found).findings if f.severity == "error"] == []
