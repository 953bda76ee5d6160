"""The manifests: rendered offline, against KubeRay's definitions, Kubernetes' own schemas, what
KubeRay's operator refuses, and what we promise. Every check is shown to catch what it is for."""

import copy
import os
import re
import shlex

import crds
import kubernetes_validate
import pytest
from kuberay import KUBERAY
from manifests import (
    IMAGE,
    K8S,
    OURS,
    clusters,
    containers,
    gpus,
    of_kind,
    render,
    rendered,
    workers,
)
from mutations import ABSENT, OF_RULES, OF_SCHEMAS

from raytransfer.cli import COMMANDS, _understand

OVERLAYS = sorted(path.name for path in (K8S / "overlays").iterdir())
RULES = [*KUBERAY, *OURS]
BY_KUBERAY = [name for name in OVERLAYS if name != "reader"]

with_definitions = pytest.mark.skipif(
    not crds.FOLDER.is_dir(),
    reason=f"KubeRay's definitions are not in {crds.FOLDER}, which RAYTRANSFER_CRDS names",
)
named = pytest.mark.parametrize


def documents_of(overlay):
    """Those of a pod that reads are applied where those of a study are."""
    return rendered(overlay) + (rendered("kind") if overlay == "reader" else [])


def broken(documents):
    found = {rule.__name__: list(rule(documents)) for rule in RULES}
    return {rule: sentences for rule, sentences in found.items() if sentences}


def ray_document(documents):
    (found,) = (each for each in documents if each["kind"] in crds.FILES)
    return found


def changed(documents, path, value):
    """A copy in which one place, such as RayJob/spec/backoffLimit, has another value."""
    documents = copy.deepcopy(documents)
    kind, *places, last = (int(part) if part.isdigit() else part for part in path.split("/"))
    (at,) = of_kind(documents, kind)
    for place in places:
        at = at.setdefault(place, {}) if isinstance(at, dict) else at[place]
    if value is ABSENT:
        del at[last]
    elif isinstance(at, list) and last == len(at):
        at.append(value)
    else:
        at[last] = value
    return documents


@named("overlay", BY_KUBERAY)
@with_definitions
def test_kuberay_s_definitions_take_every_overlay(overlay):
    assert crds.errors(ray_document(rendered(overlay))) == []


@named("overlay", OVERLAYS)
def test_kubernetes_schemas_take_every_other_document_to_the_last_field(overlay):
    for document in rendered(overlay):
        if document["kind"] not in crds.FILES:
            kubernetes_validate.validate(document, "1.37", strict=True)


@named("overlay", OVERLAYS)
def test_every_overlay_keeps_every_rule(overlay):
    assert broken(documents_of(overlay)) == {}


@named(("rule", "overlay", "path", "value"), OF_RULES, ids=lambda each: str(each)[:60])
def test_every_rule_catches_what_it_is_for(rule, overlay, path, value):
    (check,) = (each for each in RULES if each.__name__ == rule)
    assert list(check(changed(documents_of(overlay), path, value)))


def test_no_rule_is_without_something_that_it_catches():
    assert {rule.__name__ for rule in RULES} == {rule for rule, *_ in OF_RULES}


@named(("overlay", "path", "value"), OF_SCHEMAS, ids=lambda each: str(each)[:60])
@with_definitions
def test_the_definitions_refuse_what_kubernetes_would_refuse(overlay, path, value):
    assert crds.errors(ray_document(changed(rendered(overlay), path, value)))


@named("overlay", ["kind", "reader"])
def test_kubernetes_schemas_refuse_an_unknown_field(overlay):
    document = copy.deepcopy(rendered(overlay)[-1 if overlay == "reader" else 0])
    document["metadata"]["lables"] = {}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(document, "1.37", strict=True)


@named("overlay", [name for name in BY_KUBERAY if name != "cluster"])
def test_every_entrypoint_is_a_command_of_ours(overlay):
    words = ray_document(rendered(overlay))["spec"]["entrypoint"].split()
    assert words[0] == "raytransfer"
    assert callable(_understand(words[1:]))


def test_the_cluster_is_the_gpu_job_s_but_for_gpus_that_wait():
    (job,), (cluster,) = clusters(rendered("gpu")), clusters(rendered("cluster"))
    train = next(group for group in workers(cluster) if gpus(group))
    assert train["minReplicas"] == train["replicas"] == 0
    at = f"RayJob/spec/rayClusterSpec/workerGroupSpecs/{workers(cluster).index(train)}"
    waiting = changed(rendered("gpu"), f"{at}/minReplicas", 0)
    assert clusters(changed(waiting, f"{at}/replicas", 0)) == [cluster]
    assert job != cluster


@named("overlay", ["gpu", "cluster"])
def test_ray_s_autoscaler_sees_what_each_group_offers(overlay):
    from ray.autoscaler._private.kuberay import autoscaling_config as ray_config

    document = copy.deepcopy(ray_document(rendered(overlay)))
    (spec,) = clusters([document])
    cluster = {"metadata": document["metadata"], "spec": spec}
    types = ray_config._derive_autoscaling_config_from_ray_cr(cluster)["available_node_types"]
    offers = {name: each["resources"] for name, each in types.items()}
    assert offers["headgroup"]["CPU"] == 0
    assert offers["decode"]["decode"] == offers["decode"]["CPU"] == 8
    assert "decode" not in offers["gpu"]
    assert offers["gpu"]["GPU"] == 1
    assert types["decode"]["min_workers"] == 1


def test_a_kustomization_of_one_s_own_as_in_the_guide_keeps_every_rule_but_the_image(tmp_path):
    text = (K8S / "README.md").read_text().split("```yaml\n")[1].split("```")[0]
    here = os.path.relpath(K8S, tmp_path.resolve())
    (tmp_path / "kustomization.yaml").write_text(text.replace("../raytransfer/k8s", here))
    documents = render(tmp_path.resolve())
    assert ray_document(documents)["metadata"]["name"] == "reduced"
    assert broken(documents).keys() == {"versions_are_those_that_are_pinned"}
    images = {container.get("image", "") for _, container in containers(documents)}
    assert images == {f"registry.example/you/{IMAGE}", ""}


def commands_of_the_guide():
    blocks = re.findall(r"^    (\S(?:\\\n|.)*)", (K8S / "README.md").read_text(), re.MULTILINE)
    for line in (block.replace("\\\n", " ") for block in blocks):
        if found := re.search(r"(?:^|-- +)raytransfer ([a-z].*)", line):
            yield shlex.split(found[1])


@named("words", [*commands_of_the_guide()], ids=" ".join)
def test_every_command_of_the_guide_is_one_of_ours(words):
    assert words[0] in COMMANDS
    assert callable(_understand(words))


def test_the_guide_names_every_overlay():
    text = (K8S / "README.md").read_text()
    assert all(f"`{name}`" in text for name in OVERLAYS)
    assert set(re.findall(r"k8s/overlays/(\w+)", text)) <= set(OVERLAYS)
    assert IMAGE in text
