"""What a kill comes to: images in flight are suspects, a poison is found and set aside, all others are done."""

from __future__ import annotations

import pytest
from tests.e2e.running_stack import Case, Outcome

pytestmark = pytest.mark.e2e


@pytest.mark.smoke
@pytest.mark.begins(Case("tidegate_demo_burst", images=70, params={"first_limit_mib": 768}))
def test_what_was_in_flight_at_an_oom_kill_is_done_again_and_nothing_is_lost(outcome: Outcome) -> None:
    outcome.assert_whole()
    assert outcome.summary["oom_kills"] >= 1
    assert outcome.summary["quarantined"] == 0
    kills = [each for each in outcome.attempts if each.end == "oom"]
    assert all(each.report is not None and each.report.in_flight for each in kills)
    assert outcome.attempts[-1].limit_bytes > outcome.attempts[0].limit_bytes
    outcome.assert_redone_at_most(sum(len(each.report.in_flight) for each in kills if each.report))


@pytest.mark.smoke
@pytest.mark.begins(Case("tidegate_demo_poison", images=60, job={"image_ids": list(range(1, 61))}))
def test_an_image_that_kills_every_pod_is_quarantined_with_its_error_and_the_rest_is_done(outcome: Outcome) -> None:
    assert outcome.state == "success"
    assert outcome.truth is not None
    poison = outcome.truth.images[0]
    assert poison.image_id == "1"
    assert (poison.answers, poison.errors, poison.failed) == (1, 1, True)
    outcome.assert_each_done_once(but=poison.image_id)
    # Two kills, the second while alone; the probe may have met the image first.
    assert sum(each.end == "decoder_crash" for each in outcome.attempts) <= 2
