"""Verbs as Ray jobs: submitted by HTTP, followed by asking again and again, with the exit code that the driver ended with.

Nothing is held open while a job runs, so there is nothing that a broken connection could end: status and log are asked for
every few seconds, and a cluster that does not answer is asked again for as long as `patience` says.
"""

from __future__ import annotations

import logging
import os
import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeVar

import ray
import requests
from ray.exceptions import AuthenticationError
from ray.job_submission import JobDetails, JobStatus, JobSubmissionClient
from tenacity import RetryCallState, Retrying, retry_if_exception_type, stop_after_delay, wait_exponential_jitter

from differnet_ray.errors import EXIT_INTERRUPTED, ConfigError, DifferNetError

T = TypeVar("T")
TIMEOUT = (10.0, 60.0)  # seconds to connect, and between bytes of an answer
SECONDS_TO_CONNECT = 15.0  # to a cluster that has not answered yet: its address is likely wrong
SECONDS_TO_STOP = 30  # that a job has to end in order; Ray's own default of 3 is short where an upload is on its way
LONGEST_WAIT, LOG_PER_SECOND = (
    15.0,
    100_000,
)  # between two looks: the log comes as a whole each time, so long ones come less often
SHOWN_MESSAGE = 2000  # characters of what Ray says of a job that it could not start
CHANGED_IN_BETWEEN = 5  # tries to find a free name, where others submit the same
NO_NETWORK = (ConnectionError, requests.ConnectionError, requests.Timeout)
SERVER_ERRORS = (500, 502, 503, 504)
NONCE = "differnet_submit"
CHATTY = (
    "ray.dashboard.modules.dashboard_sdk",
    "ray._private.authentication.http_token_authentication",
    "ray._private.runtime_env.packaging",
)


@dataclass(frozen=True)
class Submission:
    """What is to be run.

    Attributes:
        name: of the job; one that has finished under it is followed by name-2, name-3, ...
        entrypoint: the command.
        folder: working directory, which travels to the cluster; None: nothing travels.
        environment: variables of the job.
        requirements: file of packages that Ray installs for the job; None: what the cluster has.
    """

    name: str
    entrypoint: str
    folder: str | None = None
    environment: Mapping[str, str] = field(default_factory=dict)
    requirements: str | None = None

    def runtime_env(self) -> dict[str, Any]:
        """What Ray is to prepare for it."""
        environment: dict[str, Any] = {"env_vars": {"RAY_JOB_STOP_WAIT_TIME_S": str(SECONDS_TO_STOP), **self.environment}}
        if self.folder is not None:
            environment["working_dir"] = self.folder
        if self.requirements is not None:
            environment["pip"] = self.requirements
        return environment


class _Client(JobSubmissionClient):
    """Ray's client, which waits for an answer without end, and takes a busy head for a refusal."""

    def _do_request(self, method: str, endpoint: str, **arguments: Any) -> requests.Response:
        answer: requests.Response = super()._do_request(method, endpoint, timeout=TIMEOUT, **arguments)
        if method == "GET" and answer.status_code in SERVER_ERRORS:
            raise requests.ConnectionError(f"status {answer.status_code}: {answer.text.strip()[-SHOWN_MESSAGE:]}")
        return answer


class Jobs:
    """The jobs of a cluster.

    Args:
        address: of its dashboard, such as `http://head:8265`, or one that Ray makes that of; None: that of RAY_ADDRESS.
        patience: seconds for which a cluster that does not answer is asked again.
        say: shown what people should know.

    Raises:
        ConfigError: no address, a token that is not the cluster's, or another version of Ray.
        DifferNetError: the cluster does not answer.
    """

    def __init__(self, address: str | None, patience: float, say: Callable[[str], None]) -> None:
        if address is not None:
            os.environ["RAY_API_SERVER_ADDRESS"] = address  # Ray's variables go before what its client is given
        self.address = os.environ.get("RAY_API_SERVER_ADDRESS") or os.environ.get("RAY_ADDRESS") or ""
        if not self.address:
            raise ConfigError("no cluster: give --address or RAY_ADDRESS, such as http://head:8265")
        for name in CHATTY:
            logging.getLogger(name).setLevel(logging.ERROR)  # what they say, errors here say better
        self.patience, self.say = patience, say
        self._silent, self._shown = False, dict[str, int]()  # the log of a job that has been shown, in characters
        self._client: Any = self._reached(_Client, min(patience, SECONDS_TO_CONNECT))
        theirs, ours = str(self._client._server_ray_version), ray.__version__
        if theirs.split(".")[:2] != ours.split(".")[:2]:
            raise ConfigError(
                f"the cluster {self.address} runs Ray {theirs}, and this package is for {ours}: start the cluster from the "
                "image of this version (cluster/docker), or install the version of this package that is for its Ray"
            )

    def submit(self, what: Submission) -> tuple[str, bool]:
        """Submits a job, unless it is running.

        Returns:
            Its id, and whether it was there already.

        Raises:
            DifferNetError: the cluster refuses it.
        """
        nonce = uuid.uuid4().hex
        for _ in range(CHANGED_IN_BETWEEN):
            numbered = self._numbered(what.name)
            if numbered:
                last = numbered[max(numbered)]
                if (last.metadata or {}).get(NONCE) == nonce:  # it arrived, and the answer did not
                    return str(last.submission_id), False
                if not last.status.is_terminal():
                    return str(last.submission_id), True
            number = max(numbered, default=0) + 1
            job_id = what.name if number == 1 else f"{what.name}-{number}"
            job = {"submission_id": job_id, "entrypoint": what.entrypoint, "metadata": {NONCE: nonce}}
            try:
                self._reached(partial(self._client.submit_job, runtime_env=what.runtime_env(), **job))
            except RuntimeError as error:
                if "already exists" in str(error):
                    continue
                raise DifferNetError(f"the cluster {self.address} refuses the job: {str(error)[-SHOWN_MESSAGE:]}") from error
            return job_id, False
        raise DifferNetError(f"others submit {what.name} again and again at the same time: give another --submission-id")

    def _numbered(self, name: str) -> dict[int, JobDetails]:
        """The jobs of a name by their number."""
        found = {}
        for job in self._reached(self._client.list_jobs):
            given, _, number = (job.submission_id or "").removeprefix(name).partition("-")
            if (job.submission_id or "").startswith(name) and not given and (number.isdecimal() or job.submission_id == name):
                found[int(number or 1)] = job
        return found

    def follow(self, job_id: str, show: Callable[[str], None]) -> int:
        """Shows the log of a job until the job has ended; called again after an interruption, the rest of it.

        Args:
            job_id: of the job.
            show: called with each new piece of the log.

        Returns:
            The exit code of its driver: of one that a signal killed 128 and the signal's number, of a job that was stopped 130.

        Raises:
            DifferNetError: the cluster could not run it, or knows it no more, or does not answer.
        """
        while True:
            job = self._job(job_id)
            log = self._log(job_id)
            if log is not None:
                show(log[self._shown.get(job_id, 0) :])
                self._shown[job_id] = len(log)
            if job.status.is_terminal():
                if log is None:
                    self.say(f"the end of the log of {job_id} cannot be read: the node that it is on does not answer")
                return self._outcome(job)
            time.sleep(min(LONGEST_WAIT, 1 + self._shown.get(job_id, 0) / LOG_PER_SECOND))

    def stop(self, job_id: str) -> None:
        """Asks a job to end: it has half a minute, then it is killed.

        Raises:
            DifferNetError: the cluster does not answer.
        """
        self._reached(partial(self._client.stop_job, job_id))

    def _job(self, job_id: str) -> JobDetails:
        try:
            job: JobDetails = self._reached(partial(self._client.get_job_info, job_id))
        except RuntimeError as error:
            raise DifferNetError(
                f"the cluster {self.address} knows the job {job_id} no more: its head was started anew, and the job went with "
                f"it. Run the same command again: it goes on where it was. ({error})"
            ) from error
        return job

    def _log(self, job_id: str) -> str | None:
        """All of it; None where it cannot be had, which is no reason to give up."""
        try:
            return str(self._client.get_job_logs(job_id))
        except (*NO_NETWORK, RuntimeError):
            return None

    def _outcome(self, job: JobDetails) -> int:
        if job.status == JobStatus.SUCCEEDED:
            return 0
        if job.status == JobStatus.STOPPED:
            return EXIT_INTERRUPTED
        if job.driver_exit_code is None:
            said = (job.message or "Ray does not say why").strip()[-SHOWN_MESSAGE:]
            raise DifferNetError(f"the job {job.submission_id} failed, and not by itself: {said}; run the same command again")
        if job.driver_exit_code < 0:
            self.say(f"signal {-job.driver_exit_code} ended the driver, as where memory is short (9) or a node is drained (15)")
            return 128 - job.driver_exit_code
        return int(job.driver_exit_code)

    def _reached(self, ask: Callable[[], T], patience: float | None = None) -> T:
        """What the cluster answers, as soon as it does."""
        seconds = self.patience if patience is None else patience
        asking = Retrying(
            retry=retry_if_exception_type(NO_NETWORK),
            wait=wait_exponential_jitter(initial=0.5, max=LONGEST_WAIT),
            stop=stop_after_delay(seconds),
            before_sleep=self._say_once,
            reraise=True,
        )
        try:
            answer = asking(ask)
        except AuthenticationError as error:
            raise ConfigError(self._token_words(str(error))) from error
        except NO_NETWORK as error:
            raise DifferNetError(
                f"the cluster {self.address} did not answer for {seconds:.0f} s ({_short(error)}): check the address (of the "
                "dashboard, port 8265), and that the head is up and no firewall is between. A job that runs goes on: the same "
                "command finds it"
            ) from error
        self._silent = False
        return answer

    def _say_once(self, state: RetryCallState) -> None:
        if not self._silent and state.outcome is not None:
            self._silent = True
            self.say(f"the cluster {self.address} does not answer ({_short(state.outcome.exception())}): asking again")

    def _token_words(self, said: str) -> str:
        mend = "set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN (or RAY_AUTH_TOKEN_PATH) to the token of the cluster"
        if said.startswith("Authentication required"):
            return f"the cluster {self.address} asks for a token, and none was sent: {mend}"
        return f"the cluster {self.address} does not take this token: {mend}"


def _short(error: BaseException | None) -> str:
    """An error of the network without its layers."""
    return f"{type(error).__name__}: {' '.join(str(error).split())[-200:]}"
