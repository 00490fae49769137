"""Who hears of a run's end: the notifiers of Airflow's providers that the administrator has given a connection.

Without one nothing is called and nothing is imported. What is told is the run's summary, which `report` pushed.
"""

from __future__ import annotations

from typing import Any, Final

from tidegate.adapters.configuration import Configuration

#: XCom key under which `report` leaves the words.
SUMMARY: Final = "summary"
_WORDS: Final = "{{ ti.xcom_pull(task_ids='report', key='" + SUMMARY + "') or 'no summary: see the log of report' }}"
_RUN: Final = "Tidegate {{ run_id }}"
_LINK: Final = "{{ ti.log_url }}"


def on_end(configuration: Configuration) -> list[Any]:
    """For a run that is proven complete: told where people read, paging nobody."""
    return _slack(configuration, "complete")


def on_lock_out(configuration: Configuration) -> list[Any]:
    """For a run that needs a person."""
    return [*_slack(configuration, "needs a person"), *_pagerduty(configuration), *_opsgenie(configuration)]


def _slack(configuration: Configuration, outcome: str) -> list[Any]:
    if not configuration.slack_conn_id:
        return []
    from airflow.providers.slack.notifications.slack import SlackNotifier

    return [
        SlackNotifier(
            slack_conn_id=configuration.slack_conn_id,
            channel=configuration.slack_channel,
            text=f"{_RUN} {outcome}\n{_WORDS}\n{_LINK}",
        )
    ]


def _pagerduty(configuration: Configuration) -> list[Any]:
    if not configuration.pagerduty_conn_id:
        return []
    from airflow.providers.pagerduty.notifications.pagerduty import PagerdutyNotifier

    return [
        PagerdutyNotifier(
            pagerduty_events_conn_id=configuration.pagerduty_conn_id,
            summary=f"{_RUN} needs a person",
            severity="error",
            source="tidegate",
            # A repeated failure of one run is one incident.
            dedup_key="{{ run_id }}",
            custom_details={"summary": _WORDS},
            links=[{"href": _LINK, "text": "log"}],
        )
    ]


def _opsgenie(configuration: Configuration) -> list[Any]:
    if not configuration.opsgenie_conn_id:
        return []
    from airflow.providers.opsgenie.notifications.opsgenie import OpsgenieNotifier

    return [
        OpsgenieNotifier(
            opsgenie_conn_id=configuration.opsgenie_conn_id,
            payload={
                "message": f"{_RUN} needs a person",
                "alias": "{{ run_id }}",
                "description": f"{_WORDS}\n{_LINK}",
                "source": "tidegate",
                "tags": ["tidegate"],
            },
        )
    ]
