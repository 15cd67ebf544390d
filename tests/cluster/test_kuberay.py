"""cluster/kuberay as `kubectl apply -k` would send it: KubeRay's schema, and the project itself."""

from __future__ import annotations

import importlib
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import ray
import yaml
from ray._private.ray_constants import (
    DEFAULT_DASHBOARD_PORT,
    RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S,
)
from ray.scripts.scripts import start

from ray_jobs.config.schema import JOB_CONFIGS
from tests.cluster.kustomize import BuildError, build
from tests.cluster.manifests import (
    CLUSTER,
    IMAGE_FOLDER,
    JOBS,
    KUBERAY,
    OVERLAYS,
    RAY_JOBS,
    ROOT,
    SETTINGS,
    Schema,
    by_name,
    cluster_spec,
    entrypoint_words,
    gibibytes,
    kubectl,
    kuberay_schema,
    load,
    loaded,
    misspelt,
    needs_kubectl,
    pod_schema,
    pod_specs,
    problems,
    ray_resource,
    rendered,
    require_held,
    resource,
)

LOCAL = KUBERAY / "local"
RAY = [KUBERAY / "cluster", *RAY_JOBS]
SUBMISSION_MODES = {"K8sJobMode", "HTTPMode", "SidecarMode", "InteractiveMode"}
FREE_MAPS = ("metadata", "rayStartParams", "requests", "limits", "nodeSelector")
"""Maps whose keys no schema of KubeRay names; their keys are checked below."""
HEAD_ALONE = {"export_onnx", "import_ttt", "push_decoder"}
BY_THEMSELVES = {"cache_codes", "cache_chapters", "push_decoder"}
"""Jobs that go on without being told to resume."""


def job_words(overlay: Path) -> tuple[str, list[str]]:
    """The module and the words of an overlay's command."""
    words = entrypoint_words(ray_resource(overlay)["spec"]["entrypoint"])
    assert words[:2] == ["python", "-m"]
    return words[2], words[3:]


def in_checkout(words: list[str]) -> list[str]:
    return [word.replace(IMAGE_FOLDER, str(ROOT)) for word in words]


def kubectl_build(overlay: Path) -> list[dict]:
    output = subprocess.check_output([str(kubectl), "kustomize", str(overlay)])
    return list(yaml.safe_load_all(output))


def test_every_job_has_its_overlay():
    assert {path.name for path in JOBS} == set(JOB_CONFIGS)
    kustomizations = {path.parent for path in KUBERAY.rglob("kustomization.yaml")}
    parts = {KUBERAY / "settings", *(KUBERAY / "template").iterdir()}
    assert kustomizations == {*OVERLAYS, *parts}
    for path in JOBS:
        (sent,) = rendered(path)
        assert sent["kind"] == "RayJob"
        assert sent["metadata"]["name"] == f"ttt-{path.name.replace('_', '-')}"
        assert job_words(path)[0] == f"ray_jobs.{path.name}"


@needs_kubectl
@pytest.mark.parametrize("overlay", OVERLAYS, ids=by_name)
def test_kubectl_renders_what_is_tested_here(overlay):
    def order(each: dict) -> tuple[str, str]:
        return each["kind"], each["metadata"]["name"]

    assert sorted(kubectl_build(overlay), key=order) == sorted(rendered(overlay), key=order)


@pytest.mark.parametrize("overlay", RAY, ids=by_name)
def test_kuberay_accepts_it(overlay):
    document = ray_resource(overlay)
    assert not problems(document, kuberay_schema(document["kind"]))


@pytest.mark.parametrize("overlay", [KUBERAY / "cluster", LOCAL], ids=by_name)
def test_kuberay_accepts_no_misspelt_key(overlay):
    document = ray_resource(overlay)
    schema = kuberay_schema(document["kind"])
    places = []
    for place, changed in misspelt(document, FREE_MAPS):
        places.append(place)
        if place not in ("apiVersion", "kind"):  # the API server's own
            assert problems(changed, schema), f"misspelt {place} is not noticed"
    assert len(places) > 80


@pytest.mark.parametrize("overlay", RAY, ids=by_name)
def test_what_kuberays_schema_leaves_open(overlay):
    document = ray_resource(overlay)
    spec = cluster_spec(document)
    assert document["apiVersion"] == "ray.io/v1"
    assert re.fullmatch(r"[a-z][a-z0-9-]{1,46}", document["metadata"]["name"])
    assert set(document["metadata"]) == {"name", "namespace"}
    assert spec["rayVersion"] == ray.__version__
    assert spec["authOptions"] == {"mode": "token"}
    assert spec["headGroupSpec"]["serviceType"] == "ClusterIP"
    assert spec["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
    options = {option for parameter in start.params for option in parameter.opts}
    groups = spec.get("workerGroupSpecs", [])
    for group in (spec["headGroupSpec"], *groups):
        assert {f"--{name}" for name in group["rayStartParams"]} <= options
    for group in groups:
        assert group["minReplicas"] <= group["replicas"] <= group["maxReplicas"]
        grace = group["template"]["spec"]["terminationGracePeriodSeconds"]
        assert grace > RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S  # else killed in its notice
    for pod in pod_specs(document):
        (container,) = pod["containers"]
        resources = container["resources"]
        assert set(resources["limits"]) <= {"cpu", "memory", "nvidia.com/gpu"}
        assert resources["limits"]["memory"] == resources["requests"]["memory"]
        claimed = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
        assert claimed == {"shared": "/shared", "shm": "/dev/shm"}
        assert set(claimed) == {volume["name"] for volume in pod["volumes"]}
        # Ray keeps 30 % of a node's memory for objects, in /dev/shm.
        (shm,) = (volume for volume in pod["volumes"] if volume["name"] == "shm")
        memory = gibibytes(resources["limits"]["memory"])
        assert gibibytes(shm["emptyDir"]["sizeLimit"]) >= 0.3 * memory


@pytest.mark.parametrize("overlay", OVERLAYS, ids=by_name)
def test_no_container_is_privileged_and_weights_are_shared(overlay):
    pods = [each["spec"] for each in rendered(overlay) if each["kind"] == "Pod"]
    if overlay in RAY:
        pods += pod_specs(ray_resource(overlay))
    for pod in pods:
        for container in pod["containers"] + pod.get("initContainers", []):
            context = {**pod.get("securityContext", {}), **container["securityContext"]}
            assert context["allowPrivilegeEscalation"] is False
            if container["name"] != "owner":  # gives the new folder away
                assert (context["runAsUser"], context["runAsNonRoot"]) == (1000, True)
        (main,) = pod["containers"]
        home, token = main["env"]
        assert home == {"name": "HF_HOME", "value": "/shared/huggingface"}
        assert token["name"] == "HF_TOKEN"
        assert token["valueFrom"]["secretKeyRef"]["optional"] is True


# What a person changes in one place.


def test_a_setting_reaches_every_place(tmp_path):
    """Each value is replaced; the old one is nowhere, the new one wherever it belongs."""
    folder = copied(tmp_path)
    changes = {
        "namespace": "team-a",
        "image": "other.example.org/speech:7",
        "imagePullPolicy": "Always",
        "imagePullSecrets": [{"name": "other-registry"}],
        "claim": {
            "name": "other-claim",
            "storageClassName": "other-class",
            "accessModes": ["ReadWriteOncePod"],
            "storage": "7Ti",
        },
        "gpuNodes": {
            "nodeSelector": {"other-label": "yes"},
            "tolerations": [{"key": "other-taint", "operator": "Exists"}],
        },
    }
    file = folder / "settings" / "settings.yaml"
    assert set(SETTINGS) == {"apiVersion", "kind", "metadata", *changes}
    file.write_text(yaml.safe_dump({**SETTINGS, **changes}), encoding="utf-8")
    old = [SETTINGS["image"], "IfNotPresent", "nvidia.com/gpu.product", "ReadWriteMany", "2Ti"]
    old += ["name: registry", "claimName: ttt-speech", "namespace: ttt-speech", "kubernetes.io/os"]
    for overlay in (path for path in OVERLAYS if path != LOCAL):
        sent = build(folder / overlay.relative_to(KUBERAY))
        text = yaml.safe_dump_all(sent)
        assert [value for value in old if value in text] == [], overlay.name
        for each in sent:
            assert each["metadata"]["namespace"] == "team-a"
            if each["kind"] == "PersistentVolumeClaim":
                claim = each["spec"]
                assert each["metadata"]["name"] == "other-claim"
                assert claim["resources"]["requests"]["storage"] == "7Ti"
                assert claim["storageClassName"] == "other-class"
                assert claim["accessModes"] == ["ReadWriteOncePod"]
                continue
            pods = [each["spec"]] if each["kind"] == "Pod" else pod_specs(each)
            for pod in pods:
                assert pod["imagePullSecrets"] == changes["imagePullSecrets"]
                (shared,) = (volume for volume in pod["volumes"] if volume["name"] == "shared")
                assert shared["persistentVolumeClaim"] == {"claimName": "other-claim"}
                for container in pod["containers"] + pod.get("initContainers", []):
                    assert container["image"] == changes["image"]
                    assert container["imagePullPolicy"] == "Always"
            for pod in pods[1:]:
                assert pod["nodeSelector"] == changes["gpuNodes"]["nodeSelector"]
                assert pod["tolerations"] == changes["gpuNodes"]["tolerations"]


def test_shipped_settings_fit_the_image_and_the_folder():
    assert SETTINGS["image"] == load(CLUSTER / "aws.yaml")["docker"]["image"]
    assert SETTINGS["claim"]["accessModes"] == ["ReadWriteMany"]
    keys = {toleration["key"] for toleration in SETTINGS["gpuNodes"]["tolerations"]}
    assert "nvidia.com/gpu" in keys
    workers = pod_specs(ray_resource(KUBERAY / "jobs" / "train_decoder"))[1]
    assert workers["tolerations"] == SETTINGS["gpuNodes"]["tolerations"]


def test_the_same_pods_everywhere():
    """Jobs differ from the cluster that stays in what they ask for, and in nothing else."""

    def without_resources(pod: dict) -> dict:
        (container,) = pod["containers"]
        return {**pod, "containers": [{**container, "resources": None}]}

    head, worker = map(without_resources, pod_specs(ray_resource(KUBERAY / "cluster")))
    for overlay in JOBS:
        pods = [without_resources(pod) for pod in pod_specs(ray_resource(overlay))]
        assert pods == [head, worker][: len(pods)]


def test_the_pod_for_files_gives_the_shared_folder_to_the_images_user():
    pod, schema = resource(KUBERAY / "files", "Pod")["spec"], pod_schema()
    assert not problems(pod, schema)
    for place, changed in misspelt(pod, ("requests",)):
        assert problems(changed, schema), f"misspelt {place} is not noticed"
    assert pod["volumes"] == pod_specs(ray_resource(KUBERAY / "cluster"))[0]["volumes"][:1]
    (owner,), (files,) = pod["initContainers"], pod["containers"]
    user = files["securityContext"]["runAsUser"]
    for container in (owner, files):
        (mount,) = container["volumeMounts"]
        assert mount["mountPath"] == "/shared"
    assert owner["command"] == ["chown", f"{user}:{user}", "/shared"]


def test_the_network_file_lets_in_ray_the_operator_and_prometheus():
    policy = load(KUBERAY / "network.yaml")
    assert (policy["apiVersion"], policy["kind"]) == ("networking.k8s.io/v1", "NetworkPolicy")
    assert set(policy["metadata"]) == {"name"}  # applied in the namespace of the jobs
    spec = policy["spec"]
    assert set(spec) == {"podSelector", "policyTypes", "ingress"}
    assert spec["policyTypes"] == ["Ingress"]
    # KubeRay keeps rules of the same kind, so its definition knows their keys.
    known = kuberay_schema("RayCluster").schema["properties"]["spec"]["properties"]
    rules = Schema(known["networkPolicy"]["properties"]["head"]["properties"]["ingressRules"])
    assert not problems(spec["ingress"], rules)
    for place, changed in misspelt(spec["ingress"], ("matchLabels",)):
        assert problems(changed, rules), f"misspelt {place} is not noticed"
    monitor = load(KUBERAY / "podmonitor.yaml")
    among, operator, prometheus = spec["ingress"]
    assert spec["podSelector"] == monitor["spec"]["selector"]  # all pods of Ray
    assert among == {"from": [{"podSelector": spec["podSelector"]}]}  # on any port
    (dashboard,), (metrics,) = operator["ports"], prometheus["ports"]
    assert dashboard["port"] == DEFAULT_DASHBOARD_PORT
    assert metrics["port"] == 8080  # KubeRay's, which podmonitor.yaml calls `metrics`
    for rule in (operator, prometheus):
        (peer,) = rule["from"]
        assert peer["namespaceSelector"]["matchLabels"]  # an empty one would be everybody


# The jobs.


@pytest.mark.parametrize("overlay", RAY_JOBS, ids=by_name)
def test_a_ray_job_ends_and_is_tried_again_only_where_it_goes_on(overlay):
    spec = ray_resource(overlay)["spec"]
    assert spec["submissionMode"] in SUBMISSION_MODES
    assert spec["shutdownAfterJobFinishes"] is True
    assert spec["ttlSecondsAfterFinished"] > 0
    assert set(yaml.safe_load(spec["runtimeEnvYAML"])) == {"env_vars"}
    module, words = job_words(overlay)
    by_itself = module.removeprefix("ray_jobs.") in BY_THEMSELVES
    assert ("--resume-if-begun" in words) != by_itself


@pytest.mark.parametrize("overlay", RAY_JOBS, ids=by_name)
def test_the_real_command_takes_the_words_of_a_ray_job(overlay, capsys):
    require_words_taken(overlay.name, *job_words(overlay))
    folders = [word for word in job_words(overlay)[1] if word.startswith(("run=", "output="))]
    assert len(folders) == (overlay.name != "push_decoder")
    printed = capsys.readouterr().out
    for folder in folders:
        assert folder.partition("=")[2].startswith("/shared/")
        assert f"\n{folder.replace('=', ': ')}\n" in printed


@pytest.mark.parametrize("overlay", JOBS, ids=by_name)
def test_a_ray_jobs_nodes_hold_its_workers_and_read_the_data(overlay):
    require_fitting(ray_resource(overlay))


def require_words_taken(job: str, module: str, words: list[str]) -> None:
    """Fails unless the job itself reads its configuration from these words."""
    assert importlib.import_module(module).main([*in_checkout(words), "--print-config"]) == 0, job


def require_fitting(document: dict) -> None:
    """Fails unless a RayJob's pods hold the workers that its command asks for, on GPUs."""
    words = entrypoint_words(document["spec"]["entrypoint"])
    config = loaded(words[2], words)
    groups = cluster_spec(document).get("workerGroupSpecs", [])
    if words[2].removeprefix("ray_jobs.") in HEAD_ALONE:
        assert not groups
        assert not hasattr(config, "cluster")
        return
    (group,) = groups
    limits = group["template"]["spec"]["containers"][0]["resources"]["limits"]
    nodes, cpus = group["replicas"], float(limits["cpu"])
    gpus = float(limits["nvidia.com/gpu"]) * nodes
    if config.cluster.num_workers is None:  # as many as fit
        assert gpus / config.cluster.gpus_per_worker >= nodes
    else:
        require_held(config, nodes, cpus, gpus)


# The rehearsal without GPUs.


def test_the_rehearsal_asks_a_laptop_for_little_and_no_registry_for_anything():
    assert {each["kind"] for each in rendered(LOCAL)} == {"PersistentVolumeClaim", "Pod", "RayJob"}
    claim = resource(LOCAL, "PersistentVolumeClaim")["spec"]
    assert (claim["storageClassName"], claim["accessModes"]) == ("standard", ["ReadWriteOnce"])
    pods = [*pod_specs(ray_resource(LOCAL)), resource(LOCAL, "Pod")["spec"]]
    containers = [each for pod in pods for each in pod["containers"]]
    containers += [each for pod in pods for each in pod.get("initContainers", [])]
    assert len(containers) == 5
    for container in containers:
        assert container["image"] == "ttt-speech:0.1.0"
        assert container["imagePullPolicy"] == "Never"
    assert "nvidia.com/gpu" not in yaml.safe_dump([pod["containers"] for pod in pods])
    (group,) = cluster_spec(ray_resource(LOCAL))["workerGroupSpecs"]
    assert group["replicas"] == 1
    asked = [container["resources"]["requests"] for pod in pods for container in pod["containers"]]
    memory = {"3Gi": 3, "256Mi": 0.25}
    cpus = {"500m": 0.5, "100m": 0.1, "1": 1}
    assert sum(memory[each["memory"]] for each in asked) <= 8
    assert sum(cpus[each["cpu"]] for each in asked) <= 2


# What is broken is noticed.


def test_a_broken_overlay_is_noticed(tmp_path):
    folder = copied(tmp_path)
    overlay = folder / "jobs" / "train_decoder"
    file = overlay / "kustomization.yaml"
    text = file.read_text(encoding="utf-8")

    def changed(old: str, new: str) -> None:
        assert text.count(old) == 1
        file.write_text(text.replace(old, new), encoding="utf-8")

    for old, new, said in (
        ("path: /spec/entrypoint", "path: /spec/entrypoin", "there is no entrypoin"),
        ("workerGroupSpecs/0/", "workerGroupSpecs/1/", "there is no 1"),
        ("{kind: RayJob}", "{kind: RayJobs}", "finds nothing"),
        ("../../template/pods", "../../template/pod", "no file"),
        ("../../settings, ", "", "there is no namespace"),
        ("patches:", "patch:", "unknown"),
    ):
        changed(old, new)
        with pytest.raises(BuildError, match=said):
            build(overlay)
    changed("cluster.num_workers=4", "cluster.num_workers=8")
    with pytest.raises(AssertionError):
        require_fitting(build(overlay)[0])
    changed("cluster.num_workers=4", "cluster.num_worker=4")
    words = entrypoint_words(build(overlay)[0]["spec"]["entrypoint"])
    with pytest.raises(AssertionError):
        require_words_taken("train_decoder", words[2], words[3:])
    changed("--resume-if-begun", "--resume-if-begun && date")
    with pytest.raises(AssertionError, match="the shell would act"):
        entrypoint_words(build(overlay)[0]["spec"]["entrypoint"])


@needs_kubectl
def test_kubectl_notices_a_wrong_path_and_a_missing_setting(tmp_path):
    folder = copied(tmp_path)
    overlay = folder / "jobs" / "train_decoder"
    assert kubectl_build(overlay) == rendered(KUBERAY / "jobs" / "train_decoder")
    for file, old, new in (
        (overlay / "kustomization.yaml", "workerGroupSpecs/0/", "workerGroupSpecs/1/"),
        (folder / "settings" / "settings.yaml", "nodeSelector:", "nodeSelektor:"),
    ):
        text = file.read_text(encoding="utf-8")
        file.write_text(text.replace(old, new), encoding="utf-8")
        with pytest.raises(subprocess.CalledProcessError):
            kubectl_build(overlay)
        with pytest.raises(BuildError):
            build(overlay)
        file.write_text(text, encoding="utf-8")


def copied(tmp_path: Path) -> Path:
    return Path(shutil.copytree(KUBERAY, tmp_path / "kuberay"))
