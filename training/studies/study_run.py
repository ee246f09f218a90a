"""A run of a study: its method, seed, options and folder, and its line once it is finished."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import msgspec

from runtime.base.errors import UserError
from runtime.model.locate import RESULT
from training.config.former_recipes import recipe_of_result
from training.config.idle_keys import read_settings
from training.config.options import Options
from training.config.recipe import Recipe, recipe_from_values
from training.records.run_folder import IMAGES
from training.studies.study_methods import StudyMethod

_FIGURES = ("top1", "top5", "ece")


@dataclass(frozen=True)
class StudyRun:
    """A method with a seed.

    Attributes:
        method: the row that the run belongs to.
        seed: of the run.
        study: the study's name.
        recipe: of the run; the method's changes are in it.
        parent: the folder in which the run has its own folder, log and recipe file.
        shared: the options that all runs of the study have in common, with the study's command.
        data_digest: `Dataset.digest()`; None for data that are known by their name.
        content_digest: `Dataset.content_digest()`, which tells every picture; None as above.
    """

    method: StudyMethod
    seed: int
    study: str
    recipe: Recipe
    parent: Path
    shared: Options
    data_digest: str | None = None
    content_digest: str | None = None

    @property
    def arch(self) -> str:
        return self.shared.arch

    @property
    def folder(self) -> Path:
        """Where the run trains.

        A finished run is found by this name alone, so students that differ have names that differ.
        """
        shared = self.shared
        words = [Path(shared.data).name, shared.arch]
        if shared.width != Options.width:
            words.append(f"x{shared.width:g}")
        if shared.image_size is not None:
            words.append(f"{shared.image_size}px")
        return self.parent / "-".join([*words, self.method.name, f"s{self.seed}"])

    @property
    def log(self) -> Path:
        """What the run prints."""
        return self._beside(".log")

    @property
    def recipe_file(self) -> Path:
        """Where the run reads its recipe."""
        return self._beside(".yaml")

    @property
    def options(self) -> Options:
        """What `training/run.py` is asked for."""
        return replace(
            self.shared,
            drg=self.method.drg,
            dsr=self.method.dsr,
            seed=self.seed,
            recipe=str(self.recipe_file),
            out=self.folder,
            resume=True,
        )

    def line(self) -> dict[str, Any] | None:
        """The run's line for the results, or None if it is not finished.

        Raises:
            UserError: if the folder holds a run of another recipe, or of other data of that name,
                or one that diverged.
        """
        path = self.folder / RESULT
        if not path.is_file():
            return None
        result: dict[str, Any] = msgspec.json.decode(path.read_bytes())
        former = recipe_from_values(recipe_of_result(result), source=str(path))
        # Defaults of keys that the run does not read may have changed since.
        read, wanted = (
            read_settings(self.method.terms, msgspec.to_builtins(recipe))
            for recipe in (former, self.recipe)
        )
        if read != wanted:
            raise UserError(
                f"{self.folder} is a run of another recipe; remove it, or give this study another "
                "name (--study)"
            )
        # Runs of older versions state the digest of some pictures alone, or none.
        for name, own in (
            ("data_digest", self.data_digest),
            ("content_digest", self.content_digest),
        ):
            trained_on = result.get(name)
            if None not in (trained_on, own) and trained_on != own:
                raise UserError(
                    f"{self.folder} is a run of other data of that name, or their images or labels "
                    "were changed since; remove it, or give this study another name (--study)"
                )
        # A run of an older version that diverged has NaN as a figure, which JSON writes as null.
        if missing := [name for name in _FIGURES if result[name] is None]:
            raise UserError(
                f"{path} has no number for {', '.join(missing)}: its run diverged; remove "
                f"{self.folder} to train it again"
            )
        # The study's name alone stands for the four choices of terms with the plain recipe.
        study = f"{self.study}-{self.method.name}" if self.method.changes else self.study
        return {"study": study, "method": self.method.name, **result}

    def recorded_line(self) -> dict[str, Any] | None:
        """`line` with the record of each test image, of which intervals are made."""
        line, images = self.line(), self.folder / IMAGES
        if line is None or not images.is_file():  # a run of an older version has no record
            return line
        return {**line, "images": msgspec.json.decode(images.read_bytes())}

    def _beside(self, suffix: str) -> Path:
        return self.folder.with_name(self.folder.name + suffix)
