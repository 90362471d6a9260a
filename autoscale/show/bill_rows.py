"""The bill in rows of words, for terminal and page alike."""

from __future__ import annotations

from collections.abc import Mapping

from analysis.numbers import known
from autoscale.bill import Bill, Billed
from autoscale.show.words import money, number

Rows = list[list[str]]
HOURS = {  # of a month
    "accelerator-hours": "accelerator_hours",
    "  starting": "starting",
    "  in vain": "wasted",
    "  idle": "idle",
}
MONEY = {
    "cost": "cost",
    "  starting": "cost_starting",
    "  in vain": "cost_wasted",
    "  idle": "cost_idle",
    "per million output tokens": "cost_per_million_output_tokens",
}


def bill_rows(settings: Mapping[str, Billed], currency: str) -> Rows:
    """Label and one cell per setting: hours of a month, and money where there is a price."""
    rows = [
        [label, *(number(getattr(billed, part), ",.1f", "-") for billed in settings.values())]
        for label, part in HOURS.items()
    ]
    if any(billed.cost is not None for billed in settings.values()):
        unit = f" ({currency})" if currency else ""
        rows += [
            [
                label + ("" if label.startswith(" ") else unit),
                *(money(getattr(billed, part), "-") for billed in settings.values()),
            ]
            for label, part in MONEY.items()
        ]
    return rows


def hour_rows(bill: Bill) -> Rows:
    """The hour of the day (UTC) and per setting what it costs, or without a price the accelerators held in it."""
    columns = [billed.cost_by_hour or billed.by_hour for billed in bill.settings.values()]
    form = ".2f" if bill.price is not None else ".1f"
    return [
        [f"{hour:02}:00", *(number(column[hour], form, "-") for column in columns)]
        for hour in range(24)
        if any(known(column[hour]) for column in columns)
    ]


def hours_are(bill: Bill) -> str:
    """What the rows of the hours hold."""
    if bill.price is None:
        return "accelerators held, by hour of the day (UTC)"
    return f"cost of an hour{' in ' + bill.currency if bill.currency else ''}, by hour of the day (UTC)"


def bill_note(bill: Bill) -> str:
    """What the figures rest on."""
    like = "" if bill.hours >= 24 else f", as if every hour were like these {bill.hours:.3g}"
    count = f"{bill.simulations} simulation{'' if bill.simulations == 1 else 's'}"
    note = f"a month of 730.5 hours{like}; split by {count} of each setting"
    if bill.price is None:
        return f"{note}; money needs a price: --price, such as 2.5 or '2.5 EUR'"
    return f"{note}; {bill.price:g}{' ' + bill.currency if bill.currency else ''} per accelerator-hour"
