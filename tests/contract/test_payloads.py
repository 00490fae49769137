"""The payloads against their golden files: strict on what they know, tolerant of what they do not, exact in return.

A golden file is never edited: it is what an older writer has sent. A new version gets files of its own beside it.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from enum import Enum
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st
from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from tidegate.core.baseline import Baseline, DecayingHistogram
from tidegate.core.contract import (
    READABLE_VERSIONS,
    TERMINATION_MESSAGE_BYTES,
    Assignment,
    ExitCode,
    JournalEntry,
    Part,
    Payload,
    Plan,
    ProbeReport,
    Quantiles,
    Trip,
    WorkerReport,
)
from tidegate.core.errors import ContractMismatch
from tidegate.core.slot import SlotState

GOLDEN = Path(__file__).parent / "golden"
PAYLOADS: dict[str, type[Payload]] = {
    "assignment": Assignment,
    "baseline": Baseline,
    "plan": Plan,
    "probe_report": ProbeReport,
    "slot_state": SlotState,
    "trip": Trip,
    "worker_report": WorkerReport,
}
V1 = {name: json.loads((GOLDEN / "v1" / f"{name}.json").read_text(encoding="utf-8")) for name in PAYLOADS}
#: Memory may fall, so its velocity may be negative; nothing else may.
SIGNED = {"velocity_bytes_per_second"}

Step = str | int
Place = tuple[Step, ...]


def places(value: Any, at: Place = ()) -> Iterator[tuple[Place, Any]]:
    """Every place in a JSON value, the value itself first."""
    yield at, value
    children = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for step, child in children:
        yield from places(child, (*at, step))


def with_value(document: Any, place: Place, value: object) -> str:
    changed = copy.deepcopy(document)
    parent = changed
    for step in place[:-1]:
        parent = parent[step]
    parent[place[-1]] = value
    return json.dumps(changed)


def dotted(place: Place) -> str:
    return ".".join(map(str, place))


def named(name: str, place: Place) -> str:
    return f"{name}.{dotted(place)}"


NUMBERS = [
    pytest.param(name, place, value, id=named(name, place))
    for name, document in V1.items()
    for place, value in places(document)
    if isinstance(value, int | float) and not isinstance(value, bool)
]
INNER = [
    pytest.param(name, place, value, id=named(name, place))
    for name, document in V1.items()
    for place, value in places(document)
    if place
]
OBJECTS = [
    pytest.param(name, place, id=named(name, place))
    for name, document in V1.items()
    for place, value in places(document)
    # The keys of this mapping are values: what a newer writer adds there is kept, which a test of its own holds.
    if isinstance(value, dict) and (name, place) != ("baseline", ("quantities",))
]


def test_every_payload_and_every_readable_version_has_its_golden_file() -> None:
    defined = {kind for kind in Payload.__subclasses__() if kind.__module__.startswith("tidegate.core")}
    assert defined <= set(PAYLOADS.values())
    for version in READABLE_VERSIONS:
        assert {path.stem for path in (GOLDEN / f"v{version}").glob("*.json")} == set(PAYLOADS)


def test_a_quantity_that_a_newer_writer_added_is_kept_for_it() -> None:
    text = with_value(V1["baseline"], ("quantities", "of_tomorrow"), {"weights": [[3, 1.0]]})
    assert json.loads(Baseline.from_json(text).to_json())["quantities"]["of_tomorrow"]["weights"] == [[3, 1.0]]


@pytest.mark.parametrize("name", PAYLOADS)
def test_what_an_older_writer_sent_is_read_and_sent_on_unchanged(name: str) -> None:
    sent_on = json.loads(PAYLOADS[name].from_json(json.dumps(V1[name])).to_json())
    read = dict(places(sent_on))
    for place, value in places(V1[name]):
        if not isinstance(value, dict):
            assert read[place] == value, named(name, place)


@pytest.mark.parametrize(("name", "place"), OBJECTS)
def test_unknown_fields_are_tolerated_at_every_depth(name: str, place: Place) -> None:
    text = with_value(V1[name], (*place, "added_by_a_newer_writer"), {"anything": [1, None]})
    assert PAYLOADS[name].from_json(text) == PAYLOADS[name].from_json(json.dumps(V1[name]))


@pytest.mark.parametrize("name", PAYLOADS)
@pytest.mark.parametrize("version", [0, 2, -1, 10**30, "1", True, 1.5, None])
def test_an_unknown_schema_version_is_refused_by_name(name: str, version: object) -> None:
    with pytest.raises(ContractMismatch) as caught:
        PAYLOADS[name].from_json(with_value(V1[name], ("schema_version",), version))
    assert (caught.value.payload, caught.value.field) == (PAYLOADS[name].__name__, "schema_version")


@pytest.mark.parametrize("name", PAYLOADS)
def test_a_missing_schema_version_is_refused_by_name(name: str) -> None:
    document = {key: value for key, value in V1[name].items() if key != "schema_version"}
    with pytest.raises(ContractMismatch, match=rf"{PAYLOADS[name].__name__}\.schema_version: "):
        PAYLOADS[name].from_json(json.dumps(document))


@pytest.mark.parametrize("name", PAYLOADS)
def test_each_missing_required_field_is_refused_by_name_and_each_option_may_be_left_out(name: str) -> None:
    fields = PAYLOADS[name].model_fields
    for key in V1[name].keys() - {"schema_version"}:
        text = json.dumps({other: value for other, value in V1[name].items() if other != key})
        if fields[key].is_required():
            with pytest.raises(ContractMismatch) as caught:
                PAYLOADS[name].from_json(text)
            assert caught.value.field == key
            assert key in str(caught.value)
        elif key not in ("pod_uid", "exit_code"):
            PAYLOADS[name].from_json(text)


@pytest.mark.parametrize(("name", "place", "value"), NUMBERS)
def test_no_number_may_be_nan_infinite_or_negative(name: str, place: Place, value: float) -> None:
    wrong = [float("nan"), float("inf"), float("-inf")]
    if place[-1] not in SIGNED:
        wrong.append(-1 if isinstance(value, int) else -0.5)
    for bad in wrong:
        with pytest.raises(ContractMismatch) as caught:
            PAYLOADS[name].from_json(with_value(V1[name], place, bad))
        assert caught.value.field == dotted(place), bad


def test_a_number_too_large_for_a_double_is_refused_as_infinite() -> None:
    text = json.dumps(V1["trip"]).replace(str(V1["trip"]["at"]), "1e999")
    with pytest.raises(ContractMismatch, match=r"Trip\.at: "):
        Trip.from_json(text)


def test_an_integer_that_no_database_column_holds_is_refused() -> None:
    with pytest.raises(ContractMismatch, match=r"Trip\.peak_bytes: "):
        Trip.from_json(with_value(V1["trip"], ("peak_bytes",), 2**63))


@pytest.mark.parametrize(("name", "place", "value"), INNER)
def test_a_value_of_another_type_is_refused_by_name_and_never_converted(name: str, place: Place, value: object) -> None:
    wrong: list[object] = [{}, "1"]
    match value:
        case bool():
            wrong = [1, "true", []]
        case int():
            wrong = ["1", True, 1.5, []]
        case float():
            wrong = ["1.0", True, []]
        case str():
            wrong = [5, True, []]
        case dict():
            wrong = [[], "{}", 5]
    for bad in wrong:
        with pytest.raises(ContractMismatch) as caught:
            PAYLOADS[name].from_json(with_value(V1[name], place, bad))
        assert caught.value.field == dotted(place), bad


@pytest.mark.parametrize(
    "text", ["", "null", "[]", "{", '"plan"', "\x00" * 10, b"\xff\xfe", b'{"schema_version":1,"run']
)
@pytest.mark.parametrize("kind", PAYLOADS.values())
def test_what_is_no_json_object_is_refused_as_a_mismatch(kind: type[Payload], text: str | bytes) -> None:
    with pytest.raises(ContractMismatch, match=kind.__name__):
        kind.from_json(text)


@pytest.mark.parametrize(
    ("name", "changes", "word"),
    [
        pytest.param("plan", {"limit_bytes": 2**40}, "cap_bytes", id="a limit above the cap"),
        pytest.param("plan", {"lower_bytes": 2**40}, "lower_bytes", id="lower above target"),
        pytest.param("plan", {"grace_seconds": 29.0}, "grace_seconds", id="a grace that answers nothing"),
        pytest.param("slot_state", {"phase": "closed_waiting"}, "pod_uid", id="a pod where none can be"),
        pytest.param("slot_state", {"limit_bytes": 2**40}, "cap_bytes", id="a slot above its cap"),
        pytest.param("slot_state", {"ceiling_bytes": 2**40}, "cap_bytes", id="a ceiling above the cap"),
        pytest.param("worker_report", {"exit_code": 3}, "exit_code", id="an exit code that no worker emits"),
    ],
)
def test_values_that_contradict_each_other_are_refused(name: str, changes: dict[str, object], word: str) -> None:
    with pytest.raises(ContractMismatch, match=word):
        PAYLOADS[name].from_json(json.dumps(V1[name] | changes))


def test_decreasing_quantiles_and_more_strikes_alone_than_strikes_are_refused_at_their_place() -> None:
    with pytest.raises(ContractMismatch, match=r"ProbeReport\.file_bytes: "):
        ProbeReport.from_json(with_value(V1["probe_report"], ("file_bytes", "p90"), 1.0))
    with pytest.raises(ContractMismatch, match=r"Assignment\.suspects\.0: "):
        Assignment.from_json(with_value(V1["assignment"], ("suspects", 0, "strikes_alone"), 3))


def values_of(annotation: Any, metadata: list[Any]) -> st.SearchStrategy[Any]:
    """Values that a field of this type accepts, bounds included."""
    bounds = {
        name: getattr(item, name)
        for item in metadata
        for name in ("ge", "gt", "le", "min_length", "max_length")
        if hasattr(item, name)
    }
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Literal:
        return st.sampled_from(arguments)
    if origin is dict:
        return st.dictionaries(values_of(arguments[0], []), values_of(arguments[1], []), max_size=3)
    if origin is tuple and arguments[-1] is not Ellipsis:
        return st.tuples(*(values_of(item, []) for item in arguments))
    if origin is tuple:
        return st.lists(values_of(arguments[0], []), max_size=3).map(tuple)
    if hasattr(annotation, "__metadata__"):
        return values_of(arguments[0], field_metadata(annotation))
    if origin is Union or type(annotation).__name__ == "UnionType":
        return st.one_of(*(st.none() if item is type(None) else values_of(item, metadata) for item in arguments))
    if annotation is bool:
        return st.booleans()
    if annotation is int:
        lower = bounds.get("ge", bounds.get("gt", -1) + 1)
        return st.integers(min_value=lower, max_value=bounds.get("le", 2**63 - 1))
    if annotation is float:
        lower = bounds.get("ge", bounds.get("gt"))
        return st.floats(min_value=lower, exclude_min="gt" in bounds, allow_nan=False, allow_infinity=False)
    if annotation is str:
        limits = {"min_size": bounds.get("min_length", 0), "max_size": min(bounds.get("max_length", 40), 40)}
        return st.text(st.characters(exclude_categories=["Cs"]), **limits)
    if issubclass(annotation, Enum):
        return st.sampled_from(annotation)
    if annotation is Quantiles:
        four = st.lists(st.floats(min_value=0, allow_nan=False, allow_infinity=False), min_size=4, max_size=4)
        return four.map(sorted).map(lambda q: Quantiles(p50=q[0], p90=q[1], p99=q[2], max=q[3]))
    return models(annotation)


def field_metadata(annotation: Any) -> list[Any]:
    found: list[Any] = []
    for item in annotation.__metadata__:
        found += item.metadata if isinstance(item, FieldInfo) else [item]
    return found


def models(kind: type[BaseModel]) -> st.SearchStrategy[Any]:
    fields = {
        name: st.just(1) if name == "schema_version" else values_of(info.annotation, info.metadata)
        for name, info in kind.model_fields.items()
    }
    # The rules between fields are those of the golden files; here a few frames that satisfy them.
    if kind is DecayingHistogram:
        buckets = st.dictionaries(st.integers(0, 2000), st.floats(1e-6, 1e6), max_size=4)
        fields |= {"weights": buckets.map(lambda weights: tuple(sorted(weights.items())))}
    if kind is Plan:
        fields |= {"limit_bytes": st.just(5), "cap_bytes": st.integers(5, 2**63 - 1)}
        fields |= {"lower_bytes": st.just(1), "target_bytes": st.just(1), "upper_bytes": st.integers(1, 2**63 - 1)}
    if kind is SlotState:
        small = st.integers(1, 2**40)
        fields |= {"limit_bytes": small, "target_bytes": st.none() | small, "ceiling_bytes": small}
        fields |= {"cap_bytes": st.integers(2**40, 2**63 - 1)}

    @st.composite
    def built(draw: st.DrawFn) -> BaseModel:
        chosen = {name: draw(strategy) for name, strategy in fields.items()}
        try:
            return kind(**chosen)
        except ValidationError as error:
            assume(any(item["type"] != "value_error" for item in error.errors()))
            raise

    return built()


@given(st.one_of(*(models(kind) for kind in PAYLOADS.values())))
def test_what_is_written_reads_back_equal(payload: Payload) -> None:
    kind = type(payload)
    assert kind.from_json(payload.to_json()) == payload
    assert kind.from_json(payload.to_json().encode()) == payload


entries = st.builds(
    JournalEntry,
    image_id=st.text(st.sampled_from('a"é漢😀\x01'), min_size=1, max_size=512),
    reply_subject=st.none() | st.text(st.sampled_from("a.é😀"), max_size=512),
    delivery=st.integers(1, 9),
)
WORST = WorkerReport(
    run_id="\x01" * 253,
    slot=2**63 - 1,
    generation=2**63 - 1,
    phase="finished",
    exit_code=ExitCode.DRAINED,
    reason="\x01" * 600,
    acked=2**63 - 1,
    failed=2**63 - 1,
    quarantined=2**63 - 1,
    redelivered=2**63 - 1,
    in_flight=tuple(JournalEntry(image_id="😀" * 512, reply_subject="\x01" * 512) for _ in range(40)),
    in_flight_omitted=2**62,
    limit_bytes=2**63 - 1,
    floor_bytes=2**63 - 1,
    peak_bytes=2**63 - 1,
    growth_bytes_per_image=2**63 - 1,
    wanted_bytes=2**63 - 1,
    gate_closed_seconds=1.7976931348623157e308,
)


@example(WORST)
@given(
    st.builds(
        WorkerReport,
        run_id=st.text(st.sampled_from("a漢😀\x01"), min_size=1, max_size=253),
        slot=st.integers(0, 99),
        generation=st.integers(0, 99),
        phase=st.just("running"),
        reason=st.text(st.sampled_from('a"漢😀\x01'), max_size=600),
        in_flight=st.lists(entries, max_size=40).map(tuple),
        in_flight_omitted=st.integers(0, 9),
    )
)
def test_a_termination_message_always_fits_reads_back_and_counts_what_it_left_out(report: WorkerReport) -> None:
    message = report.to_message()
    assert len(message) <= TERMINATION_MESSAGE_BYTES
    read = WorkerReport.from_json(message)
    kept = len(read.in_flight)
    assert read.in_flight == report.in_flight[:kept]
    assert kept + read.in_flight_omitted == len(report.in_flight) + report.in_flight_omitted
    assert report.reason.startswith(read.reason)
    assert read.model_copy(update={"in_flight": (), "in_flight_omitted": 0, "reason": ""}) == report.model_copy(
        update={"in_flight": (), "in_flight_omitted": 0, "reason": ""}
    )


def test_a_report_that_fits_is_not_cut() -> None:
    report = WorkerReport.from_json(json.dumps(V1["worker_report"]))
    assert WorkerReport.from_json(report.to_message()) == report


def test_words_give_way_to_the_last_image_in_flight() -> None:
    entry = JournalEntry(image_id="😀" * 512, reply_subject="_INBOX.1")
    report = WorkerReport(
        run_id="r", slot=0, generation=0, phase="running", reason="😀" * 600, in_flight=(entry, entry, entry)
    )
    read = WorkerReport.from_json(report.to_message())
    assert (read.in_flight, read.in_flight_omitted) == ((entry,), 2)
    assert 0 < len(read.reason) < 600


def test_many_images_in_flight_fill_the_message_instead_of_emptying_it() -> None:
    many = tuple(JournalEntry(image_id=f"image-{number:06}") for number in range(1000))
    report = WorkerReport(run_id="r", slot=0, generation=0, phase="running", in_flight=many)
    assert len(report.to_message()) > TERMINATION_MESSAGE_BYTES * 3 // 4


def test_parts_are_frozen() -> None:
    entry = JournalEntry(image_id="a")
    assert isinstance(entry, Part)
    with pytest.raises(ValidationError):
        entry.image_id = "b"  # type: ignore[misc]
