"""A plan as text: what would run, and what other ways of packing it would cost."""

from raytransfer.results.text import Table
from raytransfer.schedule.cluster import GB, MEMORY_SHARES
from raytransfer.schedule.cost import Cost, Rate, plan_cost
from raytransfer.schedule.driver import with_networks_per_trial
from raytransfer.schedule.memory import cohort_memory
from raytransfer.schedule.prepared import Prepared

COMPARED = (1, 4)
"""Networks a trial whose cost is shown beside that of auto: textbook Ray, and a few."""

LEFT_OUT = "without validation and decoding"


def plan_tables(prepared: Prepared, networks_per_trial: int | None, rate: Rate) -> list[Table]:
    """What `plan` says. networks_per_trial: as it was asked for; None for auto."""
    return [
        _study(prepared, cost_of(prepared, rate)),
        comparison(prepared, networks_per_trial, rate),
        _cohorts(prepared),
        Table(
            "Recipe",
            ("setting", "value"),
            tuple((name, str(value)) for name, value in prepared.recipe.to_json().items()),
        ),
    ]


def _study(prepared: Prepared, cost: Cost) -> Table:
    plan, layout, machine = prepared.plan, prepared.layout, prepared.machine
    cohorts = [cohort for stage in plan.stages for cohort in stage]
    largest = max(len(cohort.treatments) for cohort in cohorts)
    networks = f"{largest} network{'s' * (largest != 1)}"
    share = f"{MEMORY_SHARES[machine.device]:.0%} of it for networks"
    units = f"{machine.units} {machine.unit}{'s' * (machine.units != 1)}"
    each = " each" if machine.device == "cuda" and machine.units > 1 else ""
    numbers = {
        "networks": f"{len(plan.treatments):,}",
        "stages": f"{len(plan.stages)}",
        "cohorts": f"{len(cohorts):,}, the largest of {networks}",
        "planned for": f"{units} ({machine.device}), {_bytes(machine.memory)}{each}, {share}",
        "trials": f"{sum(map(len, plan.waves)):,}, {layout.trials_at_once} at once",
        "processes of a trial": f"{layout.workers * layout.lanes}: {layout.workers} a batch, "
        f"{layout.lanes} side by side",
        "a pass": f"{prepared.recipe.steps:,} steps of {prepared.recipe.batch:,} images",
        "operations": f"{cost.operations:.2e} floating-point; shared layers count once",
    }
    return Table(f"Study {prepared.space.name}", ("", ""), tuple(numbers.items()))


def comparison(prepared: Prepared, networks_per_trial: int | None, rate: Rate) -> Table:
    """The cost of the study by networks a trial: one, a few, as asked for, and auto."""
    rows = []
    for limit in (*sorted({*COMPARED, networks_per_trial or 1}), None):
        if limit == networks_per_trial:
            other = prepared
        else:
            other = with_networks_per_trial(prepared, limit)
        cost = cost_of(other, rate)
        name = "auto" if limit is None else str(limit)
        rows.append(
            (
                f"{name}, this plan" if limit == networks_per_trial else name,
                f"{sum(map(len, other.plan.waves)):,}",
                f"{other.plan.passes:,}",
                _count(cost.images),
                _number(cost.device_hours),
                _time(cost.elapsed_hours),
                _bytes(memory_of(other)),
            )
        )
    unit = f"{prepared.machine.unit}-hours"
    header = ("networks a trial", "trials", "passes", "images")
    title = f"Cost {rate.source}, {LEFT_OUT}"
    return Table(title, (*header, unit, "elapsed", "process memory"), tuple(rows))


def cost_of(prepared: Prepared, rate: Rate) -> Cost:
    channels = prepared.manifest.channels
    return plan_cost(
        prepared.plan, prepared.layout, prepared.recipe, prepared.splits, channels, rate
    )


def memory_of(prepared: Prepared) -> int:
    """Bytes that the largest cohort takes in a training process, estimated."""
    return max(
        cohort_memory(
            cohort.treatments,
            prepared.recipe,
            prepared.splits,
            prepared.manifest.channels,
            prepared.layout,
        )[-1]
        for stage in prepared.plan.stages
        for cohort in stage
    )


def _cohorts(prepared: Prepared) -> Table:
    """By stage and target."""
    sizes: dict[tuple[str, str, str], list[int]] = {}
    for stage, cohorts in enumerate(prepared.plan.stages, start=1):
        for cohort in cohorts:
            key = str(stage), cohort.split, cohort.target
            sizes.setdefault(key, []).append(len(cohort.treatments))
    rows = tuple((*key, str(sum(found)), str(len(found))) for key, found in sizes.items())
    return Table("Cohorts", ("stage", "split", "target", "networks", "cohorts"), rows)


def _count(number: int) -> str:
    return f"{number:,}" if number < 10**8 else f"{number / 1e6:,.0f} million"


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _time(hours: float) -> str:
    if hours >= 48:
        return f"{hours / 24:,.1f} days"
    return f"{hours:.1f} hours" if hours >= 1 else f"{60 * hours:.1f} minutes"


def _bytes(count: int) -> str:
    return f"{count / GB:,.1f} GB" if count >= GB else f"{count / 1e6:,.1f} MB"
