"""The online endpoint on Ray Serve: an ingress that knows no torch, and scorers that share the work.

    proxy -> Ingress (online/app.py) -> Scorer -> ScoreQuery (pipeline/)

A query goes to the scorer with the least to do; where the models do not all fit in memory, to one that has the category's.

Images are not gathered into batches: one is a batch of its own in the model, so a batch of several would only make the first
wait for the last. A replica works on as many at a time as it has threads, each by one of them, as the scoring job does.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from socket import AF_INET, AF_INET6, SO_REUSEADDR, SOL_SOCKET, socket
from typing import Any, cast

import yaml
from ray import serve
from ray.exceptions import RayActorError, RayError, RayTaskError
from ray.serve.exceptions import BackPressureError, RayServeException
from ray.serve.handle import DeploymentHandle

import differnet_ray
from differnet_ray.distributed.resources import THREADS_PER_ACTOR
from differnet_ray.errors import ConfigError
from differnet_ray.online.app import build_app
from differnet_ray.online.options import GIB, Limits, Options
from differnet_ray.queries import Answer, ModelsState, Problem, Query

NAME = "differnet"
MEMORY = 3 * GIB
LOGGING = {"enable_access_log": False}  # ours says the same
CONNECTIONS = 1000  # of an ingress: most of them are refused before they cost anything
RETRY_AFTER = 5
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ServePlan:
    """What replicas take.

    Attributes:
        replicas: least and largest number of scorers.
        threads: images that each works on at a time.
        cpus, gpus: that each reserves.
    """

    replicas: tuple[int, int] = (1, 1)
    threads: int = 2
    cpus: float = 1
    gpus: float = 0


@dataclass(frozen=True)
class ServeJob:
    """The endpoint, as values.

    Attributes:
        models: canonical URI of the model store.
        pinned: category to version, where it is not the latest.
        plan: what replicas take.
        limits: of requests.
        token_file: of bearer tokens, at the same path on every node with an ingress.
        cors: origins whose pages may ask.
        memory: bytes of models that each scorer keeps loaded.
        look_seconds: between looks at the store.
    """

    models: str
    pinned: Mapping[str, str] = field(default_factory=dict)
    plan: ServePlan = field(default_factory=ServePlan)
    limits: Limits = field(default_factory=Limits)
    token_file: str | None = None
    cors: tuple[str, ...] = ()
    memory: int = MEMORY
    look_seconds: float = 5.0

    def to_dict(self) -> dict[str, Any]:
        """Plain nested values."""
        return asdict(self)

    @staticmethod
    def from_dict(values: Mapping[str, Any]) -> ServeJob:
        """The inverse of `to_dict`, also after a trip through YAML."""
        plan = {**values.get("plan", {})}
        if "replicas" in plan:
            plan["replicas"] = tuple(plan["replicas"])
        parts = {"plan": ServePlan(**plan), "limits": Limits(**values.get("limits", {})), "cors": tuple(values.get("cors", ()))}
        return ServeJob(**{**values, **parts})


class Ingress:
    """The web application, over the scorers."""

    def __init__(self, scorers: DeploymentHandle[Any], job: dict[str, Any]) -> None:
        log_with_serve()
        self._scorers, self._job = scorers, ServeJob.from_dict(job)

    def __serve_build_asgi_app__(self) -> Any:
        """The application, made in its replica."""
        job = self._job
        in_flight = job.plan.replicas[1] * (job.plan.threads + job.limits.queue)
        options = Options(job.limits, in_flight, job.token_file, job.cors, behind_proxy=True)
        self._web = build_app(job.models, RemoteScorer(self._scorers), options)
        return self._web

    async def drain(self) -> None:
        """Lets no query in any more, and waits until all have their answers: Serve takes scorers and ingress away together."""
        await self._web.state.admission.close()


class RemoteScorer:
    """The scorers of Serve, for the web side."""

    def __init__(self, scorers: DeploymentHandle[Any]) -> None:
        self._scorers, self._by_category = scorers, False

    async def score(self, query: Query) -> Answer:
        """As `queries.Scorer`; where a scorer dies over a query, another one gets it once more."""
        try:
            return await self._once(query)
        except RayActorError:
            logger.warning("a scorer died over an image of %s", query.category)
        try:
            return await self._once(query)
        except RayActorError as error:
            raise Problem(503, "the scorer died; try again", RETRY_AFTER) from error

    async def _once(self, query: Query) -> Answer:
        to = self._scorers.options(multiplexed_model_id=query.category) if self._by_category else self._scorers
        try:
            answer: Answer | Problem = await to.score.remote(query)
        except (RayActorError, RayTaskError):  # it died, or made a mistake, which is for the log
            raise
        except BackPressureError as error:
            raise Problem(429, "too many images wait to be scored", retry_after=1) from error
        except (RayError, RayServeException) as error:
            logger.error("no scorer: %s", error)
            raise Problem(503, "no scorer can be reached now", RETRY_AFTER) from error
        if isinstance(answer, Problem):
            raise answer
        return answer

    async def state(self) -> ModelsState:
        """As `queries.Scorer`."""
        try:
            state: ModelsState = await self._scorers.state.remote()
            self._by_category = not state.all_loaded
        except (RayError, RayServeException) as error:
            raise Problem(503, "no scorer can be reached now", RETRY_AFTER) from error
        return state


def log_with_serve() -> None:
    """Lets what this package logs in a replica go where Serve's own log goes."""
    ours = logging.getLogger(differnet_ray.__name__)
    ours.handlers, ours.propagate = logging.getLogger("ray.serve").handlers, False
    ours.setLevel(logging.INFO)


def plan_serve(
    cores: int, gpus: float, replicas: tuple[int, int] | None, gpus_per_replica: float | None, threads: int | None
) -> ServePlan:
    """What the replicas take of a cluster.

    Args:
        cores: of the cluster.
        gpus: of the cluster.
        replicas: least and largest number; None: up to as many as there are GPUs for, or one for each four cores.
        gpus_per_replica: share of a GPU; None: a whole one where there are any.
        threads: images that each works on at a time; None: two on a GPU, one for each of its cores up to four else.
    """
    share = (1.0 if gpus >= 1 else 0.0) if gpus_per_replica is None else gpus_per_replica
    if share:
        return ServePlan(replicas or (1, max(1, int(gpus / share))), threads or 2, 1.0, share)
    least, most = replicas or (1, max(1, cores // THREADS_PER_ACTOR))
    by_cores = max(1, min(THREADS_PER_ACTOR, cores // most))
    return ServePlan((least, most), threads or by_cores, min(by_cores, cores / most), 0.0)


def application(args: dict[str, Any]) -> Any:
    """The application, as `serve deploy` and `serve.run` take it.

    Args:
        args: of `ServeJob`.
    """
    from differnet_ray.distributed.scorer import Scorer  # here: the ingress imports this module, and needs no torch

    job = ServeJob.from_dict(args)
    plan, deployment = job.plan, cast(Any, serve.deployment)
    scorer = deployment(
        Scorer,
        max_ongoing_requests=plan.threads + job.limits.queue + 1,  # and one that asks for the state: nothing waits elsewhere
        max_queued_requests=max(1, job.limits.queue),
        graceful_shutdown_timeout_s=job.limits.seconds,
        ray_actor_options={"num_cpus": plan.cpus, "num_gpus": plan.gpus},
        autoscaling_config={
            "min_replicas": plan.replicas[0],
            "max_replicas": plan.replicas[1],
            "target_ongoing_requests": plan.threads,
        },
    )
    ingress = deployment(
        serve.ingress()(Ingress),
        name="Ingress",
        max_ongoing_requests=CONNECTIONS,
        graceful_shutdown_timeout_s=job.limits.seconds,
        ray_actor_options={"num_cpus": 0},
    )
    return ingress.bind(scorer.bind(job.to_dict()), job.to_dict())


def deployment_config(job: ServeJob, host: str, port: int) -> str:
    """The same as YAML, for `serve deploy` and a RayService of Kubernetes."""
    config = {
        "proxy_location": "EveryNode",
        "http_options": {"host": host, "port": port},
        "logging_config": LOGGING,
        "applications": [
            {
                "name": NAME,
                "route_prefix": "/",
                "logging_config": LOGGING,
                "import_path": f"{application.__module__}:{application.__name__}",
                "args": job.to_dict(),
            }
        ],
    }
    return str(yaml.safe_dump(json.loads(json.dumps(config)), sort_keys=False))  # lists for tuples; nothing refers to itself


@contextmanager
def serving(job: ServeJob, host: str, port: int) -> Iterator[str]:
    """The endpoint while the block runs; at its end it finishes what it has.

    Args:
        job: the endpoint.
        host: to listen on.
        port: to listen on.

    Yields:
        Its address.

    Raises:
        ConfigError: something listens there already.
    """
    with socket(AF_INET6 if ":" in host else AF_INET) as probe:
        probe.setsockopt(SOL_SOCKET, SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise ConfigError(f"--host {host} --port {port}: {error.strerror}; choose another one") from error
    serve.start(proxy_location="HeadOnly", http_options={"host": host, "port": port}, logging_config=LOGGING)
    try:
        serve.run(application(job.to_dict()), name=NAME, route_prefix="/", logging_config=LOGGING)
        yield f"http://{f'[{host}]' if ':' in host else host}:{port}"
    finally:
        with suppress(RayError, RayServeException, TimeoutError):
            serve.get_app_handle(NAME).drain.remote().result(timeout_s=job.limits.seconds)
        serve.delete(NAME)
        serve.shutdown()
