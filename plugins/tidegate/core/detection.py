"""The words of detection: what is sampled, what was foreseen, which thresholds hold, what an assessment says.

Covers the three seed signals too, each a pure function of numbers that the alerts share. How growth and starvation are
told from ordinary life is in `growth` and `starvation`; `detector` puts them together.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Self

from tidegate.core.contract import GIB, MIB, Character, TripCause


@dataclass(frozen=True, slots=True)
class Sample:
    """What one scrape said of one pod."""

    t_seconds: float
    nonreclaimable_bytes: float
    limit_bytes: float
    #: Cumulative since the process started.
    gate_closed_seconds: float = 0.0
    wanted_bytes: float = 0.0
    #: Cumulative since the process started.
    acked: float = 0.0
    #: Byte credits held by images in flight; None where nobody tells.
    in_flight_bytes: float | None = None


@dataclass(frozen=True, slots=True)
class Foreseen:
    """What the plan and the baseline lead one to expect of this pod; zero means that they do not say."""

    upper_bytes: float = 0.0
    baseline_velocity_bytes_per_second: float = 0.0
    images_per_second: float = 0.0
    budget_bytes: float = 0.0
    #: Robust centre and scale of the peaks of healthy runs of this pipeline.
    peak_centre_bytes: float = 0.0
    peak_scale_bytes: float = 0.0

    def height_bytes(self, most_bytes: float) -> float:
        """What the plan foresaw or healthy runs have come to, whichever is higher.

        Runs that came to more than `most_bytes` had a larger limit: they warn of this one, and excuse nothing.
        """
        return max(self.upper_bytes, self.peak_centre_bytes if self.peak_centre_bytes <= most_bytes else 0.0)


@dataclass(frozen=True, slots=True)
class Policy:
    """Every threshold of the detector."""

    #: The slowest remedy: drain, confirm the old pod gone, schedule, load the model.
    remedy_seconds: float = 60.0
    #: The quickest remedy: a resize in place.
    quick_remedy_seconds: float = 15.0
    #: The next scrape may be late or lost: two of them are waited for, never more.
    scrapes_waited: float = 2.0
    #: A velocity measured over a few samples errs by about a fifth, and many a ramp grows faster as it goes.
    horizon_margin_ratio: float = 1.3
    #: A trend of the middle window is surer than a few rises and may be acted upon earlier: load comes and goes on top.
    steady_horizon_factor: float = 1.25
    #: Growth that minutes of samples agree on may be acted upon this early: a drain then answers all its leases.
    slow_horizon_seconds: float = 300.0
    #: The long window, and the stretches whose highs stand for it.
    long_window_seconds: float = 600.0
    long_window_stretches: int = 12
    #: A stretch holds at least so many samples, so that the tops of quick teeth differ little between stretches.
    long_stretch_samples: float = 4.0
    #: The longest window, of memory as it is: slow ramps under the teeth of a collector that runs every few minutes.
    tops_window_seconds: float = 3600.0
    #: The middle window of stretches, for ramps of minutes under teeth or load.
    middle_window_stretches: int = 8
    stretch_samples: float = 3.0
    #: Rises in a row that make a fast trend: three, so that two samples of one jump never do ...
    rises_in_a_row: int = 3
    #: ... each at least this far beyond noise ...
    rise_noise_sigmas: float = 1.5
    #: ... and one fewer where credits in flight rule out that the rise is an admitted burst.
    rises_in_a_row_unexplained: int = 2
    #: ... which together are this far beyond noise.
    unexplained_noise_sigmas: float = 6.0
    #: The first of them may have begun between two scrapes, yet one far smaller than the last is noise before a jump.
    first_rise_ratio: float = 0.1
    #: The samples of the middle window; more lag behind a ramp of a few minutes.
    steady_samples: int = 8
    #: Where credits rule out load, fewer do: a noisy pod's ramp may leave no time for more.
    brisk_samples: int = 5
    #: ... or these, where the gaps between them are longer than a batch fills.
    brisk_samples_least: int = 4
    #: Up to heights that were foreseen so near the limit those few do not do: ordinary life there looks like an end.
    crowded_ratio: float = 0.9
    #: A rise is told from noise at this many sigmas; thousands of pods are judged every 5 s, so 3 would not do.
    noise_sigmas: float = 6.0
    #: The long window is judged a dozen times an hour, not every sample.
    slow_noise_sigmas: float = 4.0
    #: Noise is at most the range of the long window over this many sigmas: teeth have a height, normal noise has tails.
    range_sigmas: float = 5.0
    #: The newest stretches are left out of that range: a ramp must not pass for noise.
    range_stretches_left_out: int = 2
    #: Memory counters are never quieter than this share of the limit.
    noise_floor_ratio: float = 0.001
    #: A rise that has used less of the headroom it started with is not yet an emergency.
    headroom_used_ratio: float = 0.07
    #: New heights start this share of the limit above what was survived.
    new_height_ratio: float = 0.02
    #: The teeth of a collector differ by this share of their height.
    tooth_spread: float = 0.25
    #: Growth this much faster than any that ended is neither a tooth nor a wander, however high those went.
    steeper_ratio: float = 1.5
    #: Batches fill and collectors run in less than this, also in a pod that has not shown it yet.
    usual_rise_seconds: float = 20.0
    #: A rise under known heights is suspicious once it lasts this much longer than any that ended well.
    longer_ratio: float = 1.5
    #: Growth whose pace falls by this factor from window to window is summed as a geometric series to where it ends.
    dying_ratio: float = 0.6
    #: Credits stand for more than images hold, seldom for less; what goes beyond is not load but a wrong cost.
    load_share_low: float = 0.3
    load_share_high: float = 1.0
    #: What is believed until credits have come and gone.
    load_share_usual: float = 0.8
    #: Of a change of memory that no share of the credits explains, so much may be noise; the rest teaches nothing.
    share_noise_sigmas: float = 8.0
    #: What a credit stands for differs from image to image by about this much.
    load_share_doubt: float = 0.15
    #: Where credits fall and memory follows by less than this share of what then seems to have grown, it is just late.
    lag_ratio: float = 0.2
    #: One change of load as large as this share of the limit weighs as much as the belief one starts with.
    load_share_scale_ratio: float = 0.05
    #: The load that came once comes again; an hour halves what is expected of it.
    swing_half_life_seconds: float = 3600.0
    #: Kept free when that end, or the slow trend, is compared with the limit: allocators work in chunks.
    reserve_ratio: float = 0.02
    #: No new high for this long (and for four scrapes) is a plateau.
    settle_seconds: float = 60.0
    settle_scrapes: float = 4.0
    #: The scrape interval until two samples have shown it.
    first_interval_seconds: float = 15.0
    #: A model may load, and a first batch arrive, for this long after the work starts before growth means anything ...
    warm_up_seconds: float = 120.0
    #: ... and until a plateau, levels below this share of the limit are the model's where no plan says otherwise.
    warm_up_ratio: float = 0.9
    #: ... or this share of the room above what plan and history foresaw, for plans err most here.
    warm_up_room: float = 0.15
    #: Within this time of the warm-up, heights that the plan foresaw mean nothing: collectors take minutes to show.
    acquaintance_seconds: float = 600.0
    #: ... or this, for growth that would reach the limit in a minute: a collector as quick has shown itself by then.
    brisk_acquaintance_seconds: float = 150.0
    #: After a remedy: until its effect is in the samples.
    cool_down_seconds: float = 60.0
    #: A gate shut this long is not going to open by itself: bursts drain in less.
    gate_shut_seconds: float = 30.0
    #: A counter read over HTTP lags a little: this share of the time counts as all of it.
    gate_shut_ratio: float = 0.9
    #: Slow: under half the plan's pace for a minute, with the gate shut for two fifths of each half.
    slow_window_seconds: float = 60.0
    slow_pace_ratio: float = 0.5
    slow_gate_ratio: float = 0.4
    wanted_seconds: float = 30.0
    #: The seed signals, shared with the alerts.
    ratio_threshold: float = 0.85
    ratio_seconds: float = 60.0
    velocity_factor: float = 3.0
    zscore_threshold: float = 3.5
    #: Two of the three together make the horizon longer by this factor.
    corroborated_factor: float = 1.5
    #: Older than this many scrapes, a sample decides nothing.
    blind_scrapes: float = 3.0
    #: A gap of this many scrapes breaks every trend.
    broken_scrapes: float = 20.0
    #: A sample this far ahead of the judge's clock was stamped by a wrong clock.
    clock_tolerance_seconds: float = 30.0

    @classmethod
    def preset(cls, sensitivity: Literal["low", "normal", "high"] = "normal") -> Self:
        """Low trips later and on more evidence, high earlier and on less."""
        if sensitivity == "low":
            return cls(horizon_margin_ratio=1.0, noise_sigmas=8.0, rises_in_a_row_unexplained=3)
        if sensitivity == "high":
            return cls(horizon_margin_ratio=1.5, noise_sigmas=5.0, slow_horizon_seconds=300.0)
        return cls()


@dataclass(frozen=True, slots=True)
class Signal:
    """One of the seed signals: the number, the threshold that alerts use too, and whether it is over it."""

    name: str
    value: float
    threshold: float
    fires: bool


@dataclass(frozen=True, slots=True)
class Assessment:
    """What the samples say now."""

    trip: TripCause | None
    ratio: float
    #: Of the rule that tripped, else over the middle window.
    velocity_bytes_per_second: float
    limit_in_seconds: float | None
    starved: bool
    character: Character
    nonreclaimable_bytes: int
    limit_bytes: int
    peak_bytes: int
    wanted_bytes: int
    projected_bytes: int
    blind_seconds: float
    dropped_samples: int
    evidence: tuple[str, ...] = ()
    signals: tuple[Signal, ...] = ()
    warming_up: bool = False
    cooling_down: bool = False


def ratio_signal(seconds_above: float, ratio: float, policy: Policy) -> Signal:
    """Memory over a share of the limit for a time; `seconds_above` counts only levels that the plan did not foresee."""
    return Signal("ratio", ratio, policy.ratio_threshold, seconds_above >= policy.ratio_seconds)


def velocity_signal(velocity_bytes_per_second: float, baseline_bytes_per_second: float, policy: Policy) -> Signal:
    """Growth over a multiple of the baseline's; silent where no healthy run has told."""
    threshold = policy.velocity_factor * baseline_bytes_per_second
    return Signal("velocity", velocity_bytes_per_second, threshold, 0 < threshold < velocity_bytes_per_second)


def zscore_signal(peak_bytes: float, foreseen: Foreseen, policy: Policy) -> Signal:
    """The peak against the history of peaks, in robust sigmas; silent without history."""
    scale = foreseen.peak_scale_bytes
    zscore = (peak_bytes - foreseen.peak_centre_bytes) / scale if scale > 0 else 0.0
    return Signal("zscore", zscore, policy.zscore_threshold, zscore >= policy.zscore_threshold)


def in_gib(value: float) -> str:
    """Bytes for people."""
    return f"{value / GIB:.2f} GiB"


def in_mib_per_second(value: float) -> str:
    """A velocity for people."""
    return f"{value / MIB:.1f} MiB/s"
