"""The grids of the plan: methods that differ in one setting at a time."""

from collections.abc import Mapping

from training.studies.study_methods import NAMED_METHODS, StudyMethod
from training.studies.variants import VARIANTS

Settings = Mapping[str, object]

# In each grid of one term, one setting at a time departs from the centre, which is the method as
# published. The centre is stated here, because a recipe's defaults may be another method.
_DSR_CENTRE: Settings = {
    "dsr_fade": False,
    "dsr_weight": 1.0,
    "temperature": 4.0,
    "distillation_warmup_epochs": 1.0,
}
_DSR_SETTINGS: Mapping[str, Settings] = {
    "w1": {},
    "w0.3": {"dsr_weight": 0.3},
    "w3": {"dsr_weight": 3.0},
    "t2": {"temperature": 2.0},
    "t8": {"temperature": 8.0},
    "warm0": {"distillation_warmup_epochs": 0.0},
    "warm10": {"distillation_warmup_epochs": 10.0},
}
DRG_CENTRE = VARIANTS["drg-a0.2"]
_DRG_CENTRE: Settings = {**DRG_CENTRE.changes, "temperature": 4.0, "head_width": 1.0}
_DRG_SETTINGS: Mapping[str, Settings] = {
    "tap1": {"taps": [1]},
    "tap3": {"taps": [3]},
    "tap4": {"taps": [4]},
    "w0.1": {"drg_weight": 0.1},
    "w0.5": {"drg_weight": 0.5},
    "w1": {"drg_weight": 1.0},
    "t2": {"temperature": 2.0},
    "t8": {"temperature": 8.0},
    "head0.5": {"head_width": 0.5},
    "head2": {"head_width": 2.0},
}
_TEACHERS = ("previous", "mean", "ema")

CE_GRID = (
    *(StudyMethod(f"ce-lr{rate:g}", changes={"learning_rate": rate}) for rate in (0.05, 0.2)),
    *(StudyMethod(f"ce-wd{decay:g}", changes={"weight_decay": decay}) for decay in (2.5e-4, 1e-3)),
)
DSR_GRID = tuple(
    StudyMethod(
        f"dsr-{teacher}-{name}", dsr=True, changes={"dsr_teacher": teacher, **_DSR_CENTRE, **own}
    )
    for teacher in _TEACHERS
    for name, own in _DSR_SETTINGS.items()
)
DRG_GRID = tuple(
    StudyMethod(f"drg-{name}", drg=True, changes={**_DRG_CENTRE, **own})
    for name, own in _DRG_SETTINGS.items()
)
BOTH_GRID = tuple(
    StudyMethod(
        f"drg+dsr-{teacher}-w{weight:g}",
        drg=True,
        dsr=True,
        changes={
            **DRG_CENTRE.changes,
            "dsr_teacher": teacher,
            "dsr_weight": weight,
            "dsr_fade": False,
        },
    )
    for teacher in _TEACHERS
    for weight in (0.3, 1.0)
)
_OF_GRIDS = {method.name: method for method in (*CE_GRID, *DSR_GRID, *DRG_GRID, *BOTH_GRID)}


def changes_of(name: str) -> Settings:
    """What the method of that name changes in a recipe; nothing, if no method has the name."""
    method = NAMED_METHODS.get(name) or VARIANTS.get(name) or _OF_GRIDS.get(name)
    return method.changes if method else {}
