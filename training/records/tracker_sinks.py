"""What MLflow, Weights & Biases and Trackio are called for a run.

Where they send it is said as their own documents say it, such as by MLFLOW_TRACKING_URI, WANDB_MODE
and WANDB_PROJECT, or TRACKIO_DIR. Each package is imported when its class is used.
"""

import os
import secrets
import time
from collections.abc import Callable, Mapping
from typing import Any, Protocol

_PROJECT = "skd-edge"
_INIT_SECONDS = 30
_HTTP = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1", "MLFLOW_HTTP_REQUEST_TIMEOUT": "10"}


class Sink(Protocol):
    """A tracker that is open for one run.

    Attributes:
        run: the tracker's name for it, by which it is opened again.
    """

    run: str

    def log(self, figures: Mapping[str, float], *, step: int) -> None:
        """Sends the figures of an epoch."""

    def finish(self, figures: Mapping[str, float], *, step: int, finished: bool) -> None:
        """Sends the figures of the result and closes the run; it may be unfinished."""


class MlflowSink:
    """https://mlflow.org/docs/latest/api_reference/python_api/mlflow.client.html."""

    def __init__(self, name: str, run: str | None, params: Mapping[str, Any]) -> None:
        for variable, value in _HTTP.items():  # its own are seven tries of two minutes
            os.environ.setdefault(variable, value)
        import mlflow
        from mlflow.entities import Metric, Param

        self._metric = Metric
        self._client = mlflow.MlflowClient()
        if run is None:
            project = os.environ.get("MLFLOW_EXPERIMENT_NAME", _PROJECT)
            experiment = mlflow.set_experiment(project).experiment_id
            run = self._client.create_run(experiment, run_name=name).info.run_id
            texts = [Param(key, str(value)) for key, value in params.items()]
            self._client.log_batch(run, params=texts)
        else:
            self._client.update_run(run, status="RUNNING")
        self.run = run

    def log(self, figures: Mapping[str, float], *, step: int) -> None:
        now = round(time.time() * 1000)
        metrics = [self._metric(name, value, now, step) for name, value in figures.items()]
        self._client.log_batch(self.run, metrics=metrics)

    def finish(self, figures: Mapping[str, float], *, step: int, finished: bool) -> None:
        self.log(figures, step=step)
        self._client.set_terminated(self.run, "FINISHED" if finished else "KILLED")


class WandbSink:
    """https://docs.wandb.ai/ref/python/sdk/functions/init/."""

    def __init__(self, name: str, run: str | None, params: Mapping[str, Any]) -> None:
        import wandb

        self.run = run or secrets.token_hex(4)
        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", _PROJECT),
            id=self.run,
            name=name,
            resume="allow",
            config=dict(params),
            settings=wandb.Settings(silent=True, init_timeout=_INIT_SECONDS),
        )

    def log(self, figures: Mapping[str, float], *, step: int) -> None:
        self._run.log(dict(figures), step=step)

    def finish(self, figures: Mapping[str, float], *, step: int, finished: bool) -> None:
        self._run.summary.update(dict(figures))
        self._run.finish(exit_code=0 if finished else 1)


class TrackioSink:
    """https://huggingface.co/docs/trackio."""

    def __init__(self, name: str, run: str | None, params: Mapping[str, Any]) -> None:
        import trackio

        # Trackio knows runs by their names alone.
        self.run = run or f"{name}-{secrets.token_hex(4)}"
        project = os.environ.get("TRACKIO_PROJECT", _PROJECT)
        self._run = trackio.init(project, name=self.run, resume="allow", config=dict(params))

    def log(self, figures: Mapping[str, float], *, step: int) -> None:
        self._run.log(dict(figures), step=step)

    def finish(self, figures: Mapping[str, float], *, step: int, finished: bool) -> None:
        if figures:
            self._run.log(dict(figures), step=step)
        self._run.finish()


SINKS: Mapping[str, Callable[[str, str | None, Mapping[str, Any]], Sink]] = {
    "mlflow": MlflowSink,
    "wandb": WandbSink,
    "trackio": TrackioSink,
}
