"""The models of one server, by name: what answers now, and how its successor takes its place."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from runtime.base.errors import UserError
from runtime.inference.batcher import Batcher
from runtime.model.model_name import default_name

ENCODED_SUFFIX = "-encoded"  # NAME takes arrays by /v2, NAME-encoded the files of pictures


@dataclass(frozen=True)
class Running:
    """An open model that answers.

    Attributes:
        batcher: accepts images, until a successor has taken its place.
        version: "1" for the first of its name, one more for each successor.
    """

    batcher: Batcher
    version: str


class ServedModel:
    """One name of a server.

    Attributes:
        name: what requests call it.
        current: what answers now. A request reads this once, so that one model answers all of it.
        opened: functions that are called with each successor's batcher.
        failed_reloads: how many successors could not be opened.
        refusals: how many answers were below the threshold of the file that gave them.
    """

    def __init__(self, name: str, batcher: Batcher) -> None:
        """Serves `batcher` under `name`, as version 1."""
        self.name = name
        self.current = Running(batcher, "1")
        self.opened: list[Callable[[Batcher], None]] = []
        self.failed_reloads = 0
        self.refusals = 0

    def replace(self, batcher: Batcher) -> Running:
        """Lets `batcher` answer from now on; returns what answered until now, to be closed."""
        former = self.current
        for tell in self.opened:
            tell(batcher)
        self.current = Running(batcher, str(int(former.version) + 1))
        return former

    def close(self) -> None:
        """Answers what was accepted, then releases the model."""
        self.current.batcher.close()
        self.current.batcher.classifier.close()


class ServedModels:
    """All models of one server.

    Attributes:
        by_name: each by its name.
        default: the first, which answers requests that name none.
    """

    def __init__(self, models: Sequence[ServedModel]) -> None:
        """Serves `models`, one or more.

        Raises:
            UserError: two have one name, or the name of one is what /v2 calls another.
        """
        self.default = models[0]
        self.by_name: dict[str, ServedModel] = {}
        for model in models:
            if model.name in self.by_name:
                raise UserError(
                    f"two models are called {model.name!r}; give each a name of its own: "
                    "`--names FIRST SECOND`"
                )
            self.by_name[model.name] = model
        for name in self.by_name:
            if name + ENCODED_SUFFIX in self.by_name:
                raise UserError(
                    f"{name + ENCODED_SUFFIX!r} is the name by which /v2 takes encoded pictures "
                    f"for {name!r}; give that model another one: `--names FIRST SECOND`"
                )

    @classmethod
    def of(cls, batcher: Batcher) -> "ServedModels":
        """One model, under its default name."""
        return cls([ServedModel(default_name(batcher.classifier.card), batcher)])

    @property
    def names(self) -> list[str]:
        """The names, the default first."""
        return list(self.by_name)

    @property
    def v2_names(self) -> list[str]:
        """The names by which /v2 knows them: two for each model."""
        return [name + suffix for name in self.by_name for suffix in ("", ENCODED_SUFFIX)]

    def v2_model(self, name: str) -> tuple[ServedModel, bool] | None:
        """The model that /v2 knows as `name`, and whether it takes encoded pictures; None: none."""
        if name in self.by_name:
            return self.by_name[name], False
        plain = name.removesuffix(ENCODED_SUFFIX)
        return (self.by_name[plain], True) if plain != name and plain in self.by_name else None
