"""Wiring of one guarded batch: resolve -> probe -> plan -> [ infer || breaker ] -> verify -> report."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from airflow.sdk import Param, TriggerRule, chain, dag, get_current_context, task, task_group

from tidegate import notices
from tidegate.adapters.configuration import configuration
from tidegate.control import tasks
from tidegate.failures import BySlotState
from tidegate.operators import inference_pod
from tidegate.operators.inference_pod import InferencePodOperator
from tidegate.operators.probe_pod import ProbePodOperator
from tidegate.sensors.memory_breaker import MemoryBreakerSensor

GIB = 1024**3
settings = configuration()
RUN_ID = "{{ ti.xcom_pull(task_ids='resolve') }}"

PARAMS = {
    "source": Param(
        "",
        type="string",
        minLength=1,
        title="Source",
        section="Job",
        description_md="Number of an **Antenna job**, or the **URI of a manifest** (CSV, JSONL or Parquet;"
        " `{{ ds }}` is filled in).",
    ),
    "pipeline": Param(
        settings.pipelines[0],
        type="string",
        enum=list(settings.pipelines),
        title="Pipeline",
        section="Job",
        description_md="Models that the administrator has installed in the worker's catalogue.",
    ),
    "slots": Param(
        1,
        type="integer",
        minimum=1,
        maximum=64,
        title="Slots",
        section="Job",
        description_md="Pods that share the job. Each has its own breaker; one GPU a slot.",
    ),
    "resume_of": Param(
        None,
        type=["null", "string"],
        title="Resume of",
        section="Job",
        description_md="An earlier run of the same job: its learned limit is kept, what it answered stays answered.",
    ),
    "cap_gib": Param(
        settings.cap_bytes // GIB,
        type="integer",
        minimum=1,
        maximum=max(1, settings.cap_bytes // GIB),
        title="Memory cap (GiB)",
        section="Memory",
        description_md="No pod of this run gets more. The administrator's own cap bounds this field.",
    ),
    "first_limit_mib": Param(
        None,
        type=["null", "integer"],
        minimum=256,
        title="First limit (MiB)",
        section="Memory",
        description_md="Leave empty: the probe and the baseline choose it.",
    ),
    "remedies": Param(
        ["resize", "relaunch"],
        type="array",
        items={"type": "string", "enum": ["resize", "relaunch"]},
        title="Remedies allowed",
        section="Breaker",
        description_md="`resize` raises memory in place, `relaunch` drains and starts again. None: only alert.",
    ),
    "sensitivity": Param(
        "normal",
        type="string",
        enum=["low", "normal", "high"],
        title="Sensitivity",
        section="Breaker",
        description_md="How early memory velocity trips the breaker.",
    ),
    "on_volume_anomaly": Param(
        None,
        type=["null", "string"],
        enum=[None, "hold", "alert", "fail"],
        title="On unusual volume",
        section="Breaker",
        description_md="What to do before the first image when the job is far larger or smaller than usual."
        " Empty: hold for manifests, alert for Antenna jobs.",
    ),
    "dry_run": Param(
        False,
        type="boolean",
        title="Dry run",
        section="Breaker",
        description_md="Probe and plan only: shows limit, settings, curve and reasons in the log of `plan`.",
    ),
    "gpu_type": Param(
        None,
        type=["null", "string"],
        title="GPU type",
        section="Placement",
        description_md="Value of the node label `nvidia.com/gpu.product`.",
    ),
    "node_selector": Param({}, type="object", title="Node selector", section="Placement"),
    "tolerations": Param([], type="array", title="Tolerations", section="Placement"),
}

DOC = """
### What it does
Runs one batch of images inside bounded memory. `probe` measures some images, `plan` chooses limit and settings,
`infer` runs one pod a slot, `breaker` watches their memory and resizes or relaunches them before the kernel kills them.

### When it is red
| red task | what to do |
|---|---|
| `infer` or `breaker` with *locked out* | read the message: it names the cause, the evidence and three options |
| `verify` | the source does not confirm that all images are answered: look at the job there |
| `resolve` with *held* | the input is far from its usual size: mend it, or set `on_volume_anomaly = alert` |

To go on: raise the cap with `tidegate reset RUN --cap 32Gi` if the message asks for it, then **Clear** the task group
`inference` with its downstream tasks (clearing `infer` alone would leave it unguarded). Images that were answered are
not repeated. The run's numbers are in the log of `report`.
"""


@dag(
    dag_id="tidegate_batch_inference",
    schedule=None,
    catchup=False,
    max_active_runs=64,
    params=PARAMS,
    tags=["tidegate", "inference"],
    doc_md=DOC,
    render_template_as_native_obj=False,
    default_args={"owner": "tidegate", "retries": 3, "retry_delay": timedelta(seconds=10)},
    owner_links={"tidegate": settings.docs_url},
)
def tidegate_batch_inference() -> None:
    @task(retry_policy=BySlotState())
    def resolve() -> str:
        context: Any = get_current_context()
        return tasks.resolve(context["params"], dag_id=context["dag"].dag_id, dag_run_id=context["run_id"])

    @task(retry_policy=BySlotState())
    def plan(run: str) -> list[int]:
        return tasks.plan(run)

    @task_group
    def inference(run: str, slots: Any) -> None:
        infer = InferencePodOperator.partial(
            task_id="infer",
            run_id=run,
            # Said here too: what a mapped operator's constructor chooses, these arguments and default_args override.
            retries=inference_pod.RETRIES,
            retry_policy=BySlotState(),
        ).expand(slot=slots)
        MemoryBreakerSensor(task_id="breaker", run_id=run, infer_task_id=infer.task_id)

    @task(trigger_rule=TriggerRule.ALL_DONE, retries=tasks.VERIFY_RETRIES, retry_policy=BySlotState())
    def verify(run: str) -> str:
        return tasks.verify(run)

    @task(
        trigger_rule=TriggerRule.ALL_DONE,
        retry_policy=BySlotState(),
        on_success_callback=notices.on_end(settings),
        on_failure_callback=notices.on_lock_out(settings),
    )
    def report(run: str) -> None:
        outcome = tasks.report(run)
        get_current_context()["ti"].xcom_push(key=notices.SUMMARY, value=outcome.words)
        outcome.raise_unless_proven()

    probe = ProbePodOperator(task_id="probe", run_id=RUN_ID)
    slots = plan(RUN_ID)
    chain(resolve(), probe, slots, inference(RUN_ID, slots), verify(RUN_ID), report(RUN_ID))


tidegate_batch_inference()
