"""The fields of KubeRay's kinds that cluster/kubernetes/ uses, as JSON Schema: a small part of what KubeRay's CRDs say.

Source: the Go types that the CRDs are generated from, `ray-operator/apis/ray/v1/{raycluster,rayjob,rayservice}_types.go` of
ray-project/kuberay, as of 1.6: names from the `json` tags, enums and minima from the `+kubebuilder:validation` comments.
Anything that is not here is refused: look it up there, and add it. Pod templates are Kubernetes' own, and validated as such.
"""

from __future__ import annotations

from typing import Any

Schema = dict[str, Any]
TEXT: Schema = {"type": "string", "minLength": 1}
FLAG: Schema = {"type": "boolean"}
NUMBER: Schema = {"type": "integer", "minimum": 0}
TEXTS: Schema = {"type": "object", "additionalProperties": {"type": "string"}}
OF_KUBERNETES: Schema = {"type": "object"}


def _object(required: tuple[str, ...] = (), **properties: Schema) -> Schema:
    return {"type": "object", "properties": properties, "required": list(required), "additionalProperties": False}


AUTH = _object(mode={"enum": ["disabled", "token"]}, secretName=TEXT)  # AuthOptions
AUTOSCALER = _object(  # AutoscalerOptions
    version={"enum": ["v1", "v2"]},
    upscalingMode={"enum": ["Default", "Aggressive", "Conservative"]},
    idleTimeoutSeconds=NUMBER,
    resources=OF_KUBERNETES,
    securityContext=OF_KUBERNETES,
)
HEAD = _object(  # HeadGroupSpec
    ("template",), serviceType={"enum": ["ClusterIP", "NodePort", "LoadBalancer"]}, rayStartParams=TEXTS, template=OF_KUBERNETES
)
WORKERS = _object(  # WorkerGroupSpec
    ("groupName", "minReplicas", "maxReplicas", "template"),
    groupName=TEXT,
    replicas=NUMBER,
    minReplicas=NUMBER,
    maxReplicas=NUMBER,
    rayStartParams=TEXTS,
    template=OF_KUBERNETES,
)
CREDENTIAL = _object(value=TEXT, valueFrom=OF_KUBERNETES)  # RedisCredential
CLUSTER_SPEC = _object(  # RayClusterSpec
    ("headGroupSpec",),
    rayVersion=TEXT,
    authOptions=AUTH,
    enableInTreeAutoscaling=FLAG,
    autoscalerOptions=AUTOSCALER,
    gcsFaultToleranceOptions=_object(redisAddress=TEXT, redisPassword=CREDENTIAL),  # GcsFaultToleranceOptions
    headGroupSpec=HEAD,
    workerGroupSpecs={"type": "array", "items": WORKERS},
)
JOB_SPEC = _object(  # RayJobSpec
    entrypoint=TEXT,
    suspend=FLAG,
    backoffLimit=NUMBER,
    activeDeadlineSeconds={"type": "integer", "minimum": 1},
    shutdownAfterJobFinishes=FLAG,
    ttlSecondsAfterFinished=NUMBER,
    submitterConfig=_object(backoffLimit=NUMBER),  # SubmitterConfig
    submitterPodTemplate=OF_KUBERNETES,
    rayClusterSpec=CLUSTER_SPEC,
)
SERVICE_SPEC = _object(  # RayServiceSpec
    ("rayClusterConfig",),
    upgradeStrategy=_object(type={"enum": ["NewCluster", "None"]}),  # RayServiceUpgradeStrategy
    rayClusterDeletionDelaySeconds=NUMBER,
    excludeHeadPodFromServeSvc=FLAG,
    serveConfigV2=TEXT,
    rayClusterConfig=CLUSTER_SPEC,
)


def _kind(spec: Schema) -> Schema:
    metadata = _object(("name",), name=TEXT, namespace=TEXT, labels=TEXTS, annotations=TEXTS)
    return _object(("apiVersion", "kind", "metadata", "spec"), apiVersion=TEXT, kind=TEXT, metadata=metadata, spec=spec)


KINDS = {"RayCluster": _kind(CLUSTER_SPEC), "RayJob": _kind(JOB_SPEC), "RayService": _kind(SERVICE_SPEC)}
