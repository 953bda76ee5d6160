"""What KubeRay's operator, v1.7, refuses when it reads a RayJob or RayCluster, and what Kueue
refuses of one in a queue: an API server takes all of it.

A rule is a function from documents to sentences, one for each thing that is wrong.
"""

import re
from typing import Any

import yaml
from manifests import (
    Document,
    Found,
    clusters,
    containers,
    groups,
    of_kind,
    pods,
    scales_v2,
    specs,
    workers,
)

QUEUE = "kueue.x-k8s.io/queue-name"
MOST_CHARACTERS = {"RayJob": 47, "RayCluster": 53}
SUBMISSION_MODES = {"K8sJobMode", "HTTPMode", "InteractiveMode", "SidecarMode"}
HOST = r"[a-z]([-a-z0-9]*[a-z0-9])?"
GATED = {"networkPolicy", "tlsOptions", "historyServerOptions"}
"""Fields of a cluster behind feature gates that are off in v1.7."""

REDIS = {"RAY_REDIS_ADDRESS", "REDIS_PASSWORD", "REDIS_USERNAME"}
AUTOSCALER_V2 = "RAY_enable_autoscaler_v2"
AUTOSCALER_COMMAND = "KUBERAY_GEN_AUTOSCALER_START_CMD"
DELETION_ORDER = ["DeleteWorkers", "DeleteCluster", "DeleteSelf"]
TOKENS_SINCE, PRIORITIES_SINCE = (2, 52), (2, 56)


def environment(cluster: dict[str, Any]) -> dict[str, Any]:
    first = cluster["headGroupSpec"]["template"]["spec"]["containers"][0]
    return {each["name"]: each.get("value") for each in first.get("env", [])}


def version(cluster: dict[str, Any]) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", cluster.get("rayVersion", "")))


def names_leave_room(documents: list[Document]) -> Found:
    """KubeRay appends to them, and they become labels and host names."""
    for document in documents:
        name, most = document["metadata"]["name"], MOST_CHARACTERS.get(document["kind"], 253)
        if len(name) > most:
            yield f"{document['kind']} {name} has more than {most} characters"
        if document["kind"] in MOST_CHARACTERS and not re.fullmatch(HOST, name):
            yield f"{name} is no name of a host"


def a_cluster_is_made_or_chosen(documents: list[Document]) -> Found:
    for job in of_kind(documents, "RayJob"):
        spec, chosen = job["spec"], "clusterSelector" in job["spec"]
        if "rayClusterSpec" not in spec and not chosen:
            yield "there is neither rayClusterSpec nor clusterSelector"
        if chosen and not spec["clusterSelector"].get("ray.io/cluster"):
            yield "clusterSelector names no ray.io/cluster"
        if chosen and (spec.get("suspend") or spec.get("backoffLimit")):
            yield "a cluster that is chosen allows neither suspend nor backoffLimit"


def submission_is_known(documents: list[Document]) -> Found:
    for job in of_kind(documents, "RayJob"):
        spec, mode = job["spec"], job["spec"].get("submissionMode", "K8sJobMode")
        if mode not in SUBMISSION_MODES:
            yield f"submissionMode {mode} is none of {sorted(SUBMISSION_MODES)}"
        if mode == "SidecarMode" and spec.keys() & {
            "submitterPodTemplate",
            "submitterConfig",
            "clusterSelector",
        }:
            yield "SidecarMode has no submitter, and chooses no cluster"
        if mode == "InteractiveMode" and spec.get("backoffLimit"):
            yield "InteractiveMode has no backoffLimit"


def tries_and_deadlines_are_counts(documents: list[Document]) -> Found:
    for job in of_kind(documents, "RayJob"):
        for name, least in (
            ("backoffLimit", 0),
            ("ttlSecondsAfterFinished", 0),
            ("activeDeadlineSeconds", 1),
            ("preRunningDeadlineSeconds", 1),
        ):
            if job["spec"].get(name, least) < least:
                yield f"{name} is less than {least}"


def what_ends_is_deleted_once(documents: list[Document]) -> Found:
    """By shutdownAfterJobFinishes with its one time, or by rules in the order of what they take."""
    for job in of_kind(documents, "RayJob"):
        spec, shutdown = job["spec"], job["spec"].get("shutdownAfterJobFinishes")
        if spec.get("ttlSecondsAfterFinished") and not shutdown:
            yield "ttlSecondsAfterFinished is for shutdownAfterJobFinishes"
        if spec.get("suspend") and not shutdown:
            yield "suspend is for jobs with shutdownAfterJobFinishes"
        rules = spec.get("deletionStrategy", {}).get("deletionRules", [])
        if rules and shutdown:
            yield "deletionRules and shutdownAfterJobFinishes exclude each other"
        times: dict[str, dict[str, int]] = {}
        for rule in rules:
            policy, condition = rule["policy"], dict(rule["condition"])
            seconds, when = condition.pop("ttlSeconds", 0), str(condition)
            if policy in times.setdefault(when, {}):
                yield f"{policy} has two rules for {when}"
            if policy == "DeleteWorkers" and spec["rayClusterSpec"].get("enableInTreeAutoscaling"):
                yield "DeleteWorkers is not for clusters with autoscaling"
            times[when][policy] = seconds
        for when, by_policy in times.items():
            in_order = [by_policy[each] for each in DELETION_ORDER if each in by_policy]
            if in_order != sorted(in_order):
                yield f"{when}: less is deleted after more"


def groups_have_bounds(documents: list[Document]) -> Found:
    for cluster in clusters(documents):
        names = [group["groupName"] for group in workers(cluster)]
        if len(names) != len(set(names)):
            yield f"two of {names} have one name"
        for group in workers(cluster):
            name, bounds = group["groupName"], [group.get("minReplicas"), group.get("maxReplicas")]
            if None in bounds:
                yield f"{name} needs minReplicas and maxReplicas"
            elif not 0 <= bounds[0] <= group.get("replicas", 0) <= bounds[1]:
                yield f"{name} does not have 0 <= minReplicas <= replicas <= maxReplicas"


def containers_have_images(documents: list[Document]) -> Found:
    for name, pod in pods(documents):
        if not pod["spec"].get("containers"):
            yield f"{name} has no container"
    for name, container in containers(documents):
        if not container.get("image") and name != "head/autoscaler":
            yield f"{name} has no image"


def ray_resources_are_said_once(documents: list[Document]) -> Found:
    for cluster in clusters(documents):
        for name, group in groups(cluster):
            parameters = group.get("rayStartParams", {})
            said = parameters.keys() & {"num-cpus", "num-gpus", "memory", "resources"}
            if said and group.get("resources"):
                yield f"{name} has {said} in rayStartParams and in resources"
            if "labels" in parameters:
                yield f"{name} has labels in rayStartParams"


def tokens_need_a_version(documents: list[Document]) -> Found:
    for document, cluster in specs(documents):
        options = cluster.get("authOptions", {})
        if options.get("mode") == "token" and version(cluster) < TOKENS_SINCE:
            yield f"tokens need a rayVersion of at least {TOKENS_SINCE}"
        if options.get("enableK8sTokenAuth") and (
            options.get("mode") != "token"
            or options.get("secretName")
            or document["kind"] == "RayJob"
        ):
            yield "enableK8sTokenAuth is for RayClusters with tokens and no secret"


def autoscaling_is_consistent(documents: list[Document]) -> Found:
    for cluster in clusters(documents):
        scales, v2 = cluster.get("enableInTreeAutoscaling"), scales_v2(cluster)
        options = cluster.get("autoscalerOptions", {})
        if AUTOSCALER_V2 in environment(cluster):
            yield f"{AUTOSCALER_V2} is autoscalerOptions.version"
        if options.get("idleTimeoutSeconds", 0) < 0:
            yield "idleTimeoutSeconds is negative"
        if any(each["name"] == AUTOSCALER_COMMAND for each in options.get("env", [])):
            yield f"{AUTOSCALER_COMMAND} is KubeRay's"
        for name, group in groups(cluster):
            if v2 and group["template"]["spec"].get("restartPolicy", "Never") != "Never":
                yield f"{name} restarts, which the autoscaler of v2 does not allow"
            if scales and group.get("suspend"):
                yield f"{name} cannot be suspended where there is autoscaling"
            if "idleTimeoutSeconds" in group and (not v2 or group["idleTimeoutSeconds"] < 0):
                yield f"{name} has an idleTimeoutSeconds without autoscaling of v2"
            if group.get("priority") and (not v2 or version(cluster) < PRIORITIES_SINCE):
                yield f"{name} has a priority without autoscaling of v2"


def nothing_needs_a_feature_gate(documents: list[Document]) -> Found:
    for cluster in clusters(documents):
        yield from (f"{name} is behind a feature gate" for name in GATED & cluster.keys())
        if cluster.get("gcsFaultToleranceOptions", {}).get("backend") == "rocksdb":
            yield "the backend rocksdb is behind a feature gate"


def nothing_asks_for_redis(documents: list[Document]) -> Found:
    """KubeRay takes its settings in gcsFaultToleranceOptions only, which nothing here has."""
    for cluster in clusters(documents):
        parameters = cluster["headGroupSpec"].get("rayStartParams", {})
        asked = REDIS & environment(cluster).keys()
        asked |= {name for name in parameters if name.startswith("redis")}
        yield from (f"{name} is not for the head's pod" for name in asked)


def runtime_environment_is_yaml(documents: list[Document]) -> Found:
    for job in of_kind(documents, "RayJob"):
        try:
            yaml.safe_load(job["spec"].get("runtimeEnvYAML", ""))
        except yaml.YAMLError as error:
            yield f"runtimeEnvYAML: {error}"


def jobs_upgrade_no_cluster(documents: list[Document]) -> Found:
    for document, cluster in specs(documents):
        if document["kind"] == "RayJob" and "upgradeStrategy" in cluster:
            yield "upgradeStrategy is for RayClusters"


def queues_take_what_is_fixed(documents: list[Document]) -> Found:
    """Kueue's webhook, and what it would count wrongly."""
    for document, cluster in specs(documents):
        if QUEUE not in document["metadata"].get("labels", {}):
            continue
        spec = document["spec"]
        if not spec.get("suspend"):
            yield "it must begin suspended"
        if document["kind"] == "RayJob" and not spec.get("shutdownAfterJobFinishes"):
            yield "it must give its machines back: shutdownAfterJobFinishes"
        if "clusterSelector" in spec:
            yield "it must not choose a cluster"
        if cluster.get("enableInTreeAutoscaling"):
            yield "it must not scale"
        # Eight sets of pods, among them the head and what submits.
        if len(workers(cluster)) > 6:
            yield "it has too many groups"
        for group in workers(cluster):
            if group["groupName"] in ("head", "submitter"):
                yield f"{group['groupName']} is Kueue's own name"
            if len({group.get(f"{bound}eplicas") for bound in ("r", "minR", "maxR")}) > 1:
                yield f"{group['groupName']} has no fixed size"


KUBERAY = (
    names_leave_room,
    a_cluster_is_made_or_chosen,
    submission_is_known,
    tries_and_deadlines_are_counts,
    what_ends_is_deleted_once,
    groups_have_bounds,
    containers_have_images,
    ray_resources_are_said_once,
    tokens_need_a_version,
    autoscaling_is_consistent,
    nothing_needs_a_feature_gate,
    nothing_asks_for_redis,
    runtime_environment_is_yaml,
    jobs_upgrade_no_cluster,
    queues_take_what_is_fixed,
)
