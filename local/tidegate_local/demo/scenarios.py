"""What the demo can show: each scenario is a job, a pipeline and the form's fields that bring the case about."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final


@dataclass(frozen=True, slots=True)
class Scenario:
    name: str
    shows: str
    kind: str
    images: int
    pipeline: str
    params: Mapping[str, Any] = field(default_factory=dict)
    #: Whether the job is a list of URLs instead of an Antenna job.
    is_manifest: bool = False


SCENARIOS: Final = {
    scenario.name: scenario
    for scenario in (
        Scenario(
            "leak",
            "memory grows with every image; the breaker raises the limit in place before the kernel kills",
            kind="mixed",
            images=240,
            pipeline="tidegate_demo_leak",
            params={"cap_gib": 4},
        ),
        Scenario(
            "large",
            "22 MB images that used to kill a 16 GB worker, inside one gigabyte",
            kind="large",
            images=80,
            pipeline="tidegate_demo",
            params={"cap_gib": 2, "first_limit_mib": 1024},
        ),
        Scenario(
            "oom",
            "a burst that no breaker can foresee: a real OOM kill, suspects run alone, nothing is lost",
            kind="typical",
            images=120,
            pipeline="tidegate_demo_burst",
            params={"cap_gib": 4, "first_limit_mib": 768},
        ),
        Scenario(
            "cap",
            "a leak under a cap that cannot rise: pods are recycled until the job is done",
            kind="typical",
            images=180,
            pipeline="tidegate_demo_leak",
            params={"cap_gib": 1, "first_limit_mib": 1024},
        ),
        Scenario(
            "manifest",
            "a list of URLs in place of an Antenna job: results as part files with a committed index",
            kind="typical",
            images=200,
            pipeline="tidegate_demo",
            params={"cap_gib": 2},
            is_manifest=True,
        ),
    )
}
