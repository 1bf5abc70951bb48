"""What the chart renders: valid objects, guarded pods, and nothing from values that contradict."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import helm_python
import kubernetes_validate
import pytest
import yaml

from cli.vllm import LORA_MODULES
from tests.support.chart import (
    CHART,
    EVERYTHING,
    FILES,
    FOREIGN,
    INGRESS,
    SERVICES,
    TRAINERS,
    VLLM,
    at,
    chart,
    container,
    environment,
    merged,
    of_kind,
    pods,
    render,
    the,
    values_of,
    workload,
)

ROOT = CHART.parents[1]

every_installation = pytest.mark.parametrize("installation", FILES)


# -- valid -------------------------------------------------------------------------------------------


@every_installation
def test_lint_finds_nothing(installation: str) -> None:
    """Only a missing icon may be remarked upon."""
    result = helm_python.lint(CHART, values_of(installation), strict=True)
    assert not result["errors"]
    assert [each["error"] for each in result["messages"]] == ["icon is recommended"]


def check_objects(version: str, values: dict[str, Any]) -> None:
    objects = render(values)
    assert objects
    for each in objects:
        try:
            kubernetes_validate.validate(each, version, strict=True)
        except kubernetes_validate.SchemaNotFoundError:
            assert each["kind"] in FOREIGN


@every_installation
@pytest.mark.parametrize("version", ["1.27", "1.37"])
def test_objects_are_valid(installation: str, version: str) -> None:
    """Every object is one that the API server of this version accepts, with no unknown field."""
    check_objects(version, values_of(installation))


@pytest.mark.stack
@every_installation
@pytest.mark.parametrize("minor", range(25, 38))
@pytest.mark.parametrize("more", [EVERYTHING, INGRESS], ids=["everything", "ingress"])
def test_objects_are_valid_in_every_known_version(installation: str, minor: int, more: dict[str, Any]) -> None:
    """The same with everything on, for each version that there is a schema of."""
    check_objects(f"1.{minor}", values_of(installation, more, at("kubeVersion", f"1.{minor}.0")))


def test_optional_parts_are_valid() -> None:
    """Trainers, ServiceMonitors and an Ingress, which no values file turns on."""
    check_objects("1.32", values_of("production", EVERYTHING, INGRESS))


def test_chart_is_of_this_version() -> None:
    """The chart says which version of the project it installs."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert chart().metadata["appVersion"] == project["version"]


@every_installation
def test_names_within_a_release_lead_somewhere(installation: str) -> None:
    """Services, autoscalers, budgets and monitors point to pods that exist, and to ports that these have."""
    objects = render(values_of(installation, EVERYTHING))
    labels = {name: (pod["metadata"]["labels"], pod["spec"]) for name, pod in pods(objects)}

    def selected(wanted: dict[str, str]) -> list[dict[str, Any]]:
        return [spec for have, spec in labels.values() if wanted.items() <= have.items()]

    for each in of_kind(objects, "Service"):
        (spec,) = selected(each["spec"]["selector"])
        named = {port["name"] for port in spec["containers"][0]["ports"]}
        assert {port["targetPort"] for port in each["spec"]["ports"]} <= named
        assert all(port["protocol"] == "TCP" for port in each["spec"]["ports"])
    for each in of_kind(objects, "PodDisruptionBudget", "PodMonitoring"):
        (spec,) = selected(each["spec"]["selector"]["matchLabels"])
        for endpoint in each["spec"].get("endpoints", []):
            assert endpoint["port"] in {port["name"] for port in spec["containers"][0]["ports"]}
    for each in of_kind(objects, "HorizontalPodAutoscaler"):
        target = each["spec"]["scaleTargetRef"]
        assert "replicas" not in the(objects, target["kind"], target["name"])["spec"]
    accounts = {each["metadata"]["name"] for each in of_kind(objects, "ServiceAccount")}
    productions = set(SERVICES) if installation == "canary" else set()
    used = {spec["serviceAccountName"] for _, spec in labels.values() if "serviceAccountName" in spec}
    assert used == accounts | productions


# -- pods --------------------------------------------------------------------------------------------


@every_installation
def test_every_pod_is_confined(installation: str) -> None:
    """No root, no writable image, no capability, no token; requests and limits everywhere."""
    for name, pod in pods(render(values_of(installation, EVERYTHING))):
        spec = pod["spec"]
        assert spec["automountServiceAccountToken"] is False, name
        assert spec["securityContext"]["runAsNonRoot"] is True, name
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}, name
        for each in spec["containers"]:
            context = each["securityContext"]
            assert context["readOnlyRootFilesystem"] is True, name
            assert context["allowPrivilegeEscalation"] is False, name
            assert context["capabilities"] == {"drop": ["ALL"]}, name
            assert {"cpu", "memory"} <= each["resources"]["requests"].keys(), name
            assert "memory" in each["resources"]["limits"], name
            assert re.search(r":[\w.-]+$", each["image"]), name
            mounted = {mount["name"] for mount in each.get("volumeMounts", [])}
            claimed = {"state"} if name == "StatefulSet/churn-saver-gateway" else set()
            assert mounted == {volume["name"] for volume in spec.get("volumes", [])} | claimed, name


@every_installation
def test_every_service_is_probed_and_drains(installation: str) -> None:
    """Three probes each, and a grace period that is longer than what comes before the end."""
    objects = render(values_of(installation))
    for service in SERVICES:
        each = container(objects, service)
        for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
            asked = each[probe].get("grpc") or each[probe]["httpGet"]
            assert asked["port"] in {"http", *(port["containerPort"] for port in each["ports"])}
        wait = int(re.findall(r"sleep\((\d+)\)", each["lifecycle"]["preStop"]["exec"]["command"][2])[0])
        assert workload(objects, service)["spec"]["template"]["spec"]["terminationGracePeriodSeconds"] > wait + 10
        assert service == "gateway" or wait >= 30 + 5  # DNS names a pod for as long after it is gone


def test_gateways_drain_is_its_own() -> None:
    """The one drain that is no setting stands in the chart as in the code."""
    code = (ROOT / "services/gateway/bootstrap.py").read_text()
    (seconds,) = re.findall(r"timeout_graceful_shutdown=(\d+)", code)
    template = (CHART / "templates/_helpers.tpl").read_text()
    assert f'{{{{- if eq .of "gateway" }}}}{seconds}{{{{ else }}}}' in template


def test_old_clusters_get_what_they_know() -> None:
    """Before 1.24 a process probes; before 1.23 and 1.21 the API had other versions."""
    objects = render(values_of("production", EVERYTHING, at("kubeVersion", "v1.20.15-gke.100")))
    probe = container(objects, "decision")["livenessProbe"]
    assert probe["exec"]["command"] == ["python", "-m", "churnsaver.rpc.probe", "127.0.0.1:8101"]
    versions = {each["kind"]: each["apiVersion"] for each in objects}
    assert versions["HorizontalPodAutoscaler"] == "autoscaling/v2beta2"
    assert versions["PodDisruptionBudget"] == "policy/v1beta1"
    assert versions["CronJob"] == "batch/v1beta1"


def test_secrets_are_held_by_those_who_need_them() -> None:
    """The pseudonym key is the gateway's alone, Redis the generator's too; nobody who serves can sign."""
    objects = render(values_of("production"))
    held = {
        service: {value for value in environment(container(objects, service)).values() if value.startswith("secret:")}
        for service in SERVICES
    }
    redis = {"secret:redis-url"}
    assert held == {
        "gateway": {"secret:pseudonym-key", *redis},
        "decision": set(),
        "generator": redis,
        "shield": set(),
    }
    for service in SERVICES:
        (keys,) = (v for v in workload(objects, service)["spec"]["template"]["spec"]["volumes"] if v["name"] == "keys")
        assert [item["key"] for item in keys["secret"]["items"]] == ["trusted.pem"]


def test_persistent_journal_is_a_volume_a_replica() -> None:
    """With persistence the gateway is a StatefulSet whose state is a claim of each replica; without, a Deployment."""
    gateway = workload(render(values_of("production")), "gateway")
    assert gateway["kind"] == "StatefulSet"
    (claim,) = gateway["spec"]["volumeClaimTemplates"]
    assert claim["metadata"]["name"] == "state"
    assert claim["spec"]["accessModes"] == ["ReadWriteOnce"]
    plain = workload(render(values_of("dev")), "gateway")
    assert plain["kind"] == "Deployment"
    assert plain["spec"]["strategy"]["rollingUpdate"] == {"maxSurge": 1, "maxUnavailable": 0}


def test_new_settings_make_new_pods() -> None:
    """The checksum follows what is read, and nothing else, so a release without a change restarts nobody."""

    def checksum(*more: dict[str, Any]) -> str:
        pod = workload(render(values_of("production", *more)), "shield")["spec"]["template"]
        return str(pod["metadata"]["annotations"]["checksum/config"])

    assert checksum() != checksum(at("settings.shield.toxicity_threshold", 0.4))
    assert checksum() != checksum(at("configs.env", "offers: []"))
    assert checksum() == checksum(at("gateway.replicas", 7))


# -- who reaches whom --------------------------------------------------------------------------------


def test_callers_reach_only_what_is_for_them() -> None:
    """The kill switch, metrics and documentation are not routed; the route is the gateway's alone."""
    route = the(render(values_of("production")), "HTTPRoute", "churn-saver")
    paths = [match["path"]["value"] for rule in route["spec"]["rules"] for match in rule["matches"]]
    assert paths == ["/v1/retain", "/retain", "/v1/decisions", "/v1/outcomes", "/v1/customers"]
    ingress = the(render(values_of("production", INGRESS)), "Ingress", "churn-saver")
    assert [each["path"] for each in ingress["spec"]["rules"][0]["http"]["paths"]] == paths


def test_canary_gets_its_share() -> None:
    """Production's route leads to the canary's gateway, which the canary's release has told the load balancer about."""
    canary = {"exposure": {"canary": {"service": "churn-saver-canary-gateway", "weight": 5}}}
    route = the(render(values_of("production", canary)), "HTTPRoute", "churn-saver")
    assert [(each["name"], each["weight"]) for each in route["spec"]["rules"][0]["backendRefs"]] == [
        ("churn-saver-gateway", 95),
        ("churn-saver-canary-gateway", 5),
    ]
    released = render(merged(values_of("production", TRAINERS), values_of("canary")))
    assert of_kind(released, "HealthCheckPolicy")
    assert not of_kind(released, "HTTPRoute", "Gateway", "ExternalSecret", "ServiceAccount", "CronJob")


def test_generator_is_scaled_on_its_queue() -> None:
    """On the briefs that wait for the model, under the name that the cluster's metrics adapter gives them."""

    def metrics(*more: dict[str, Any]) -> list[dict[str, Any]]:
        found = the(render(values_of("production", *more)), "HorizontalPodAutoscaler", "churn-saver-generator")["spec"]
        assert (found["minReplicas"], found["maxReplicas"]) == (2, 10)
        return [each["pods"] for each in found["metrics"]]

    (google,) = metrics()
    assert google["metric"]["name"] == "prometheus.googleapis.com|generator_queue_depth|gauge"
    assert google["target"] == {"type": "AverageValue", "averageValue": "4"}
    (other,) = metrics(at("generator.autoscaling.queueDepth", {"metric": "generator_queue_depth", "target": 5}))
    assert (other["metric"]["name"], other["target"]["averageValue"]) == ("generator_queue_depth", "5")


def test_generator_scales_to_nothing_where_a_metric_is_there_without_pods() -> None:
    """0 to 10 replicas on an External metric, in place of the one that its own pods export."""
    backlog = {"type": "External", "external": {"metric": {"name": "waiting"}, "target": {"type": "Value", "value": 5}}}
    scale = {"minReplicas": 0, "queueDepth": {"target": None}, "metrics": [backlog]}
    objects = render(values_of("production", at("generator.autoscaling", scale)))
    found = the(objects, "HorizontalPodAutoscaler", "churn-saver-generator")["spec"]
    assert (found["minReplicas"], found["maxReplicas"], found["metrics"]) == (0, 10, [backlog])


def test_vllm_serves_on_gpu_nodes() -> None:
    """The official server with adapters at run time, on nodes that have the GPU, spot ones if wanted."""
    pod = workload(render(values_of("production", VLLM)), "vllm")["spec"]["template"]["spec"]
    assert pod["nodeSelector"] == {
        "cloud.google.com/gke-accelerator": "nvidia-l4",
        "cloud.google.com/gke-spot": "true",
    }
    assert {each["key"] for each in pod["tolerations"]} == {"cloud.google.com/gke-spot", "nvidia.com/gpu"}
    (server,) = pod["containers"]
    assert server["image"] == "vllm/vllm-openai:v0.1.0"
    assert server["command"] == ["vllm", "serve", "example/model"]
    assert {"--enable-lora", "--max-lora-rank=16", "--gpu-memory-utilization=0.9"} <= set(server["args"])
    first = server["args"].index("--lora-target-modules") + 1
    assert tuple(server["args"][first : first + len(LORA_MODULES)]) == LORA_MODULES
    assert environment(server)["VLLM_ALLOW_RUNTIME_LORA_UPDATING"] == "True"
    assert server["resources"]["limits"] == {"nvidia.com/gpu": "1", "memory": "24Gi", "ephemeral-storage": "60Gi"}
    assert server["resources"]["requests"]["nvidia.com/gpu"] == "1"
    assert {each["mountPath"] for each in server["volumeMounts"]} == {"/adapters", "/cache", "/dev/shm", "/tmp"}
    assert not [each for each in server["args"] if "quantization" in each]
    fp8 = render(values_of("production", VLLM, at("vllm.quantization", "fp8")))
    assert "--quantization=fp8_per_channel" in container(fp8, "vllm")["args"]
    on_demand = workload(render(values_of("production", VLLM, at("vllm.spot", False))), "vllm")
    assert on_demand["spec"]["template"]["spec"]["nodeSelector"] == {"cloud.google.com/gke-accelerator": "nvidia-l4"}


def test_the_generator_writes_with_vllm() -> None:
    """It is told the server's address, and puts adapters where the server reads them; an upgrade asks for a writer."""
    objects = render(values_of("production", VLLM))
    told = yaml.safe_load(the(objects, "ConfigMap", "churn-saver-config")["data"]["serve.yaml"])["generator"]
    assert (told["engine"], told["vllm"]["url"]) == ("vllm", "http://churn-saver-vllm:8000")
    claim = {"claimName": "adapters"}
    for component, access in (("generator", {}), ("vllm", {"readOnly": True})):
        pod = workload(objects, component)["spec"]["template"]["spec"]
        (mounted,) = (each for each in pod["containers"][0]["volumeMounts"] if each["name"] == "adapters")
        (volume,) = (each for each in pod["volumes"] if each["name"] == "adapters")
        assert mounted == {"name": "adapters", "mountPath": told["vllm"]["adapters"], **access}
        assert volume["persistentVolumeClaim"] == claim | access
    job = the(objects, "Job", "churn-saver-preflight")["spec"]["template"]["spec"]["containers"][0]
    assert job["args"] == ["risk", "acceptance", "policy", "reward", "writer"]


def test_vllm_is_off() -> None:
    """No values file turns it on, for a GPU costs money; where somebody does, the notes say who writes."""
    for installation in FILES:
        assert not [each for each in render(values_of(installation)) if each["metadata"]["name"].endswith("-vllm")]
    notes = chart().render(values_of("production", VLLM), name="churn-saver")["churn-saver/templates/NOTES.txt"]
    assert "vLLM serves example/model, and the generator writes with it" in notes


def test_rules_and_dashboards_are_the_projects_own() -> None:
    """Prometheus Operator gets the rules that are tested here, Grafana's sidecar every dashboard, word for word."""
    objects = render(values_of("production", EVERYTHING))
    rules = yaml.safe_load((ROOT / "monitoring/rules/services.yaml").read_text())
    assert the(objects, "PrometheusRule", "churn-saver")["spec"] == rules
    dashboards = the(objects, "ConfigMap", "churn-saver-dashboards")
    assert dashboards["metadata"]["labels"]["grafana_dashboard"] == "1"
    files = {path.name: path.read_text() for path in (ROOT / "monitoring/grafana/dashboards").glob("*.json")}
    assert files
    assert dashboards["data"] == files


def test_failed_trainers_are_tried_again_where_it_helps() -> None:
    """A lost node is not counted, and bad input is not tried twice, on clusters that know how to tell them apart."""

    def policies(version: str) -> list[dict[str, Any] | None]:
        objects = render(values_of("production", TRAINERS, at("kubeVersion", version)))
        return [each["spec"]["jobTemplate"]["spec"].get("podFailurePolicy") for each in of_kind(objects, "CronJob")]

    (first, _) = policies("1.30.0")
    assert first is not None
    assert [rule["action"] for rule in first["rules"]] == ["Ignore", "FailJob"]
    assert first["rules"][1]["onExitCodes"]["values"] == [2]
    assert policies("1.28.0") == [None, None]


def test_trainers_wait_or_follow_a_schedule() -> None:
    """Only a job with a schedule starts by itself; each can publish, and sees the settings that services see."""
    objects = render(values_of("production", TRAINERS))
    suspended = {each["metadata"]["name"]: each["spec"]["suspend"] for each in of_kind(objects, "CronJob")}
    assert suspended == {"churn-saver-risk": False, "churn-saver-policy": True}
    pod = of_kind(objects, "CronJob")[0]["spec"]["jobTemplate"]["spec"]["template"]["spec"]
    (config,) = (each["configMap"] for each in pod["volumes"] if each["name"] == "config")
    data = the(objects, "ConfigMap", "churn-saver-trainers")["data"]
    assert {item["key"] for item in config["items"]} == set(data)
    wanted = {path.relative_to(ROOT / "configs").as_posix() for path in (ROOT / "configs").rglob("*.yaml")}
    assert {item["path"] for item in config["items"]} == wanted
    assert data["env.yaml"] == the(objects, "ConfigMap", "churn-saver-config")["data"]["env.yaml"]


def test_hooks_run_when_they_should() -> None:
    """The preflight before upgrades, with settings of its own; the switch after an install; the test on demand."""
    objects = render(values_of("production"))
    hooks = {
        each["metadata"]["name"]: each["metadata"]["annotations"]["helm.sh/hook"]
        for each in objects
        if "helm.sh/hook" in each["metadata"].get("annotations", {})
    }
    assert hooks == {
        "churn-saver-preflight": "pre-upgrade",
        "churn-saver-kill-switch": "post-install",
        "churn-saver-test": "test",
    }
    # Autopilot may have to make a node for it, which takes minutes.
    assert the(objects, "Job", "churn-saver-preflight")["spec"]["activeDeadlineSeconds"] >= 600
    for name in ("kill-switch", "test"):  # Helm leaves them
        assert the(objects, "Job", f"churn-saver-{name}")["spec"]["ttlSecondsAfterFinished"] == 86400
    data = [the(objects, "ConfigMap", f"churn-saver-{name}")["data"] for name in ("config", "preflight")]
    assert data[0] == data[1]


# -- refused -----------------------------------------------------------------------------------------

AGAINST_THE_SCHEMA = [
    ("image.tag", "latest"),
    ("image.tag", "with space"),
    ("image.pullPolicy", "Sometimes"),
    ("gateway.image.digest", "sha256:short"),
    ("gateway.replicas", -1),
    ("gateway.replicas", 0),
    ("gateway.replica", 3),
    ("gateway.autoscaling.maxReplicas", 0),
    ("gateway.terminationGracePeriodSeconds", -1),
    ("gateway.preStopSeconds", -5),
    ("gateway.podDisruptionBudget.maxUnavailable", 0),
    ("gateway.resources.requests", {"cpu": None}),
    ("gateway.resources.requests", {"cpu": "lots"}),
    ("gateway.persistence.size", "big"),
    ("generator.autoscaling.queueDepth.target", 0),
    ("decision.autoscaling.queueDepth", {"target": 5}),
    ("decision.env", {"lower": "x"}),
    ("vllm.image.tag", "latest"),
    ("vllm.gpus", 0),
    ("vllm.gpuMemoryUtilization", 1.5),
    ("vllm.maxLoraRank", 17),
    ("vllm.loraModules", ["lm_head"]),
    ("vllm.quantization", "int8"),
    ("settings.gateway.port", 70000),
    ("settings.gateway.prot", 8080),
    ("settings.gateway.host", "127.0.0.1"),
    ("settings.shield.toxicity_threshold", 1.5),
    ("settings.decision.drain_s", 0),
    ("settings.generator.quantization", "int4"),
    ("settings.pseudonym_key", "secret"),
    ("settings.redis", {"url": "redis://x"}),
    ("killSwitch.initial", "maybe"),
    ("kubeVersion", "latest"),
    ("workloadIdentity.serviceAccount", "app-runtime"),
    ("exposure.kind", "loadbalancer"),
    ("exposure.host", "no spaces.example"),
    ("exposure.canary.weight", 101),
    ("networkPolicy.loadBalancerCidrs", ["10.0.0.0"]),
    ("networkPolicy.loadBalancerCidrs", ["10.256.0.0/16"]),
    ("networkPolicy.redis.peers", [{"ipBlock": {"cidr": "999.1.1.1/99"}}]),
    ("networkPolicy.dns", []),
    ("networkPolicy.redis.port", 0),
    ("monitoring.podMonitoring.interval", "often"),
    ("preflight.kinds", ["weather"]),
    ("trainers.jobs", {"risk": {"schedule": "daily", "args": ["train"]}}),
    ("trainers.jobs", {"Risk!": {"args": ["train"]}}),
]


@pytest.mark.parametrize(("path", "value"), AGAINST_THE_SCHEMA)
def test_schema_refuses(path: str, value: Any) -> None:
    """The message names the field."""
    with pytest.raises(helm_python.HelmValuesError) as refused:
        chart().validate_schema(values_of("production", at(path, value)))
    parent, _, field = path.rpartition(".")
    said = str(refused.value)
    assert path.replace(".", "/") in said or (parent.replace(".", "/") in said and f"'{field}'" in said)


CONTRADICTIONS = [
    (at("image.tag", ""), "image.tag: is empty", "set the tag"),
    (at("shield.resources.requests.memory", "1Gi"), "shield.resources.requests.memory: 1Gi is more", "raise the limit"),
    (at("shield.resources.limits.cpu", "200m"), "shield.resources.requests.cpu: 250m is more", "raise the limit"),
    (at("fullnameOverride", "x.y"), "fullnameOverride: objects would be called x.y-", "begins with a letter"),
    (at("gateway.env", {"CHURN_SAVER_PSEUDONYM_KEY": "k"}), "gateway.env.CHURN_SAVER_PSEUDONYM_KEY", "in the Secret"),
    (at("settings.gateway.port", 80), "settings.gateway.port: 80 is root's", "from 1024 on"),
    (at("configs.env", "offers: ["), "configs.env: is no YAML (", "mend the file"),
    (at("gateway.autoscaling", {"minReplicas": 11}), "gateway.autoscaling.minReplicas: 11 is more", "raise"),
    (at("shield.autoscaling.targetCPUUtilizationPercentage", None), "shield.autoscaling: has nothing", "metrics"),
    (at("decision.autoscaling.minReplicas", 0), "decision.autoscaling.minReplicas: 0 needs", "External"),
    (at("shield.terminationGracePeriodSeconds", 45), "shield.terminationGracePeriodSeconds: 45", "set more than 45"),
    (at("settings.decision.drain_s", 40), "decision.terminationGracePeriodSeconds: 60", "set more than 75"),
    (at("gateway.preStopSeconds", 50), "gateway.terminationGracePeriodSeconds: 60", "set more than 60"),
    (
        {"decision": {"serviceAccount": {"create": False, "name": ""}}},
        "decision.serviceAccount.name: is empty",
        "name the account",
    ),
    (at("shield.serviceAccount.name", "gateway"), "shield.serviceAccount.name: gateway is made for gateway", "another"),
    (merged(VLLM, at("vllm.image.tag", "")), "vllm.image.tag: is empty", "never `latest`"),
    (merged(VLLM, at("vllm.model", "")), "vllm.model: is empty", "name a model"),
    (merged(VLLM, at("vllm.model", "gs://bucket/model")), 'vllm.model: "gs://bucket/model" is a URL', "a folder of"),
    (merged(VLLM, at("vllm.servedModelName", "model")), 'vllm.servedModelName: "model" does not say', "set NAME@"),
    (merged(VLLM, at("vllm.adapters.claim", "")), "vllm.adapters.claim: is empty", "ReadWriteMany"),
    (at("generator.autoscaling.queueDepth.target", None), "generator.autoscaling: has nothing", "metrics"),
    (at("settings.registry.url", ""), "settings.registry.url", "gs://bucket/path"),
    (at("settings.registry.url", "models/registry"), "settings.registry.url", "gs://bucket/path"),
    (at("settings.events.project", ""), "settings.events.project", "set the project"),
    (at("settings.events.project", "Not_A_Project"), "settings.events.project", "set the project"),
    (at("settings.gateway.shield_timeout_ms", 450), "settings.gateway.shield_timeout_ms: 450", "deadline"),
    (at("settings.gateway.experiment", {"baseline": 0.6, "holdout": 0.5}), "settings.gateway.experiment", "lower one"),
    (at("settings.shield.metrics_port", 8103), "settings.shield.metrics_port: 8103", "choose another"),
    (at("secrets.externalSecret.enabled", False), "secrets: there are none", "existingSecret"),
    (at("secrets.existingSecret", "mine"), "secrets: existingSecret and externalSecret", "choose one"),
    (at("secrets.externalSecret.storeRef.name", ""), "secrets.externalSecret.storeRef.name", "name the"),
    (at("secrets.externalSecret.remoteKeys.redisUrl", ""), "secrets.externalSecret.remoteKeys.redisUrl", "name the"),
    (at("exposure.host", ""), "exposure.host", "name the host"),
    (at("exposure.gateway.certificate.names", []), "exposure.gateway.certificate: 0", "exactly one"),
    (at("exposure.gateway.certificate.map", "both"), "exposure.gateway.certificate: 2", "exactly one"),
    (at("exposure.canary.weight", 5), "exposure.canary.service", "name the gateway's Service"),
    (merged(INGRESS, at("exposure.canary.weight", 5)), "exposure.canary.weight", "gateway"),
    (merged(INGRESS, at("exposure.ingress.secretName", "tls")), "exposure.ingress", "either"),
    (at("networkPolicy.loadBalancerCidrs", []), "networkPolicy.loadBalancerCidrs", "name its ranges"),
    (at("networkPolicy.redis.peers", []), "networkPolicy.redis.peers", "podSelector"),
    (at("monitoring.serviceMonitor.enabled", True), "networkPolicy.monitoring", "add its namespace"),
    (at("trainers.enabled", True), "trainers.signingKey.secretName", "churn-saver keys"),
    (
        merged(TRAINERS, at("trainers.jobs.risk.args", ["train", "risk"])),
        "trainers.jobs.risk.args",
        "add --publish",
    ),
    (merged(TRAINERS, at("trainers.data.bucket", "")), "is empty, and risk reads /data/customers.csv", "the bucket"),
]


@pytest.mark.parametrize(("bad", "field", "mend"), CONTRADICTIONS)
def test_contradictions_are_refused(bad: dict[str, Any], field: str, mend: str) -> None:
    """The message names the field and the mend."""
    with pytest.raises(helm_python.HelmRenderError) as refused:
        render(values_of("production", bad))
    (line,) = (each for each in str(refused.value).splitlines() if field in each)
    assert mend in line


@pytest.mark.parametrize("name", ["1abc", "a.b"])
def test_release_that_services_cannot_be_called_after(name: str) -> None:
    """Helm takes such names; Kubernetes would refuse the Services, half a release later."""
    with pytest.raises(helm_python.HelmRenderError, match=f"fullnameOverride: objects would be called {name}-churn"):
        chart().render(values_of("production"), name=name)


def test_all_faults_are_shown_at_once() -> None:
    """Nobody has to mend one to see the next: the chart as it is names everything that it must be told."""
    with pytest.raises(helm_python.HelmRenderError) as refused:
        render({})
    for field in ("image.tag", "settings.registry.url", "settings.events.project", "secrets", "networkPolicy.redis"):
        assert f"- {field}" in str(refused.value)


def test_readme_knows_every_value() -> None:
    """The table of the chart's README names each block of values.yaml."""
    readme = (CHART / "README.md").read_text()
    assert not [name for name in chart().values if f"| `{name}" not in readme]


def test_outputs_of_terraform_exist() -> None:
    """Where the chart sends somebody to an output of Terraform, there is one."""
    declared = {
        name
        for path in (ROOT / "terraform").glob("*.tf")
        for name in re.findall(r'^output "(\w+)"', path.read_text(), re.MULTILINE)
    }
    files = [path for path in CHART.rglob("*") if path.suffix in {".yaml", ".tpl", ".md", ".txt"}]
    named = {name for path in files for name in re.findall(r"Terraform's output (\w+)", path.read_text())}
    assert named
    assert named <= declared


def test_values_say_no_more_than_they_know() -> None:
    """No registry host, project or address of somebody's stands in the chart."""
    for path in [*CHART.glob("*.yaml"), *Path(CHART / "templates").rglob("*")]:
        if path.is_file():
            assert not re.search(r"[a-z-]+-docker\.pkg\.dev|\bgcr\.io|amazonaws|/home/", path.read_text()), path
