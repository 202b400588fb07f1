"""deploy/kubernetes and the Helm chart: valid, restricted, and true to what hatoba and its image are."""

import base64
import json
import re
import shutil
import subprocess
import sys
import tomllib
import urllib.request
from pathlib import Path

import pytest
import yaml

from hatoba.config.load import load
from hatoba.metrics.catalogue import REQUESTS

DEPLOY = Path(__file__).parents[2] / "deploy"
CHART = DEPLOY / "helm/hatoba"
OLDEST, NEWEST = "1.25", "1.37"  # the oldest is the chart's
SECRET = "auth.existingSecret=passwords"
EVERYTHING = (
    "ingress.enabled=true", "ingress.hosts={one.example.com,two.example.com}", "networkPolicy.enabled=true",
    "metrics.serviceMonitor.enabled=true",
    "metrics.serviceMonitor.labels.release=prometheus", "tls.existingSecret=certificate", "image.pullSecrets={one,two}",
    "service.type=LoadBalancer", "podLabels.a=b", "podAnnotations.c=d", "nodeSelector.disk=fast", "extraEnv[0].name=TZ",
    "extraEnv[0].value=UTC", "persistence.storageClass=fast", "persistence.annotations.e=f", "config.log.level=debug",
    "service.annotations.g=h", "tolerations[0].operator=Exists", "affinity.nodeAffinity=null", "metrics.port=9000",
)  # fmt: skip
CHOICES = {
    "a secret": (SECRET,),
    "passwords": ("auth.htpasswd=admin:x",),
    "anonymous": ("auth.anonymous=true",),
    "no storage": (SECRET, "persistence.enabled=false"),
    "a claim": (SECRET, "persistence.existingClaim=there"),
    "no metrics": (SECRET, "metrics.enabled=false", "networkPolicy.enabled=true"),
    "everything": (SECRET, *EVERYTHING),
}


@pytest.fixture
def tool(tmp_path):
    """tool(name, …) runs helm, kubectl or kubernetes-validate; without `check` gives its exit code and words too."""

    def run(name, *arguments, check=True, stdin=None):
        found = shutil.which(name, path=str(Path(sys.executable).parent)) or shutil.which(name)
        if found is None:
            pytest.skip(f"needs {name}: make kubernetes-tools")
        environment = {"PATH": "/usr/bin:/bin", "HOME": str(tmp_path)}
        command = [found, *map(str, arguments)]
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment, input=stdin)
        assert not check or done.returncode == 0, done.stdout + done.stderr
        return done

    return run


@pytest.fixture
def template(tool):
    """template(*settings) gives what the chart makes of them."""

    def make(*settings, check=True):
        chosen = [part for setting in settings for part in ("--set", setting)]
        done = tool("helm", "template", "r", CHART, "--kube-version", "1.30.0", *chosen, check=check)
        return done.stdout if check else done

    return make


@pytest.fixture
def template_of(tool):
    """template_of(values) gives what the chart makes of a values file."""

    def make(values):
        return tool("helm", "template", "r", CHART, "--values", "-", stdin=yaml.safe_dump(values)).stdout

    return make


@pytest.fixture
def kustomized(tool):
    return tool("kubectl", "kustomize", DEPLOY / "kubernetes").stdout


@pytest.fixture(params=["kustomize", *CHOICES])
def made(request, tool, template):
    """Every way to deploy it, as text."""
    if request.param == "kustomize":
        return tool("kubectl", "kustomize", DEPLOY / "kubernetes").stdout
    return template(*CHOICES[request.param])


def objects(text, kind=None):
    found = [entry for entry in yaml.safe_load_all(text) if entry]
    return found if kind is None else [entry for entry in found if entry["kind"] == kind]


def pods(text):
    """The labels and the spec of every pod."""
    found = [(entry["metadata"], entry["spec"]) for entry in objects(text, "Pod")]
    templates = [entry["spec"]["template"] for entry in objects(text, "StatefulSet")]
    return [*found, *((entry["metadata"], entry["spec"]) for entry in templates)]


def server(text):
    (found,) = objects(text, "StatefulSet")
    return found["spec"]


def configuration(text):
    (found,) = objects(text, "ConfigMap")
    return yaml.safe_load(found["data"]["config.yml"])


def settings_of(document):
    """What hatoba reads in it, without a warning."""
    loaded = load(None, {}, base=document)
    assert loaded.warnings == ()
    return loaded.settings


def test_the_chart_is_without_fault(tool):
    for settings in CHOICES.values():
        tool("helm", "lint", "--strict", CHART, *(part for setting in settings for part in ("--set", setting)))


@pytest.mark.parametrize("version", [OLDEST, NEWEST])
def test_kubernetes_takes_it(tool, kustomized, template, tmp_path, version):
    """All of them at once: reading the schemas takes longest."""
    written = 0
    for number, text in enumerate((kustomized, *(template(*settings) for settings in CHOICES.values()))):
        # The schema of a ServiceMonitor is the Prometheus operator's.
        known = [entry for entry in objects(text) if entry["kind"] != "ServiceMonitor"]
        (tmp_path / f"{number}.yml").write_text(yaml.safe_dump_all(known))
        written += len(known)
    done = tool("kubernetes-validate", "-k", version, "--strict", *tmp_path.glob("*.yml"))
    assert done.stdout.count("passed for resource") == written > 8 * 4


def test_kubernetes_would_refuse_a_mistake(tool, kustomized, tmp_path):
    path = tmp_path / "made.yml"
    path.write_text(kustomized.replace("readOnlyRootFilesystem", "readonlyRootFilesystem"))
    assert tool("kubernetes-validate", "-k", NEWEST, "--strict", path, check=False).returncode != 0


def test_every_pod_meets_the_restricted_standard(made):
    """Kubernetes' Pod Security Standards, "restricted", and a root file system that cannot be written."""
    for _, spec in pods(made):
        assert spec["securityContext"]["runAsNonRoot"] is True
        assert spec["securityContext"]["runAsUser"] > 0
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert spec["automountServiceAccountToken"] is False
        assert spec["enableServiceLinks"] is False, "a Service named registry would write REGISTRY_PORT"
        assert not {"hostNetwork", "hostPID", "hostIPC", "initContainers"} & set(spec)
        kinds = {kind for volume in spec.get("volumes", ()) for kind in volume if kind != "name"}
        assert kinds <= {"configMap", "secret", "emptyDir", "persistentVolumeClaim"}
        for container in spec["containers"]:
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]},
            }  # fmt: skip
            assert container["resources"]["limits"]["memory"]


def test_what_hatoba_reads_is_what_the_pod_has(made):
    spec = server(made)["template"]["spec"]
    (container,) = spec["containers"]
    settings = settings_of(configuration(made))
    mounts = {Path(mount["mountPath"]): mount for mount in container["volumeMounts"]}
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    assert settings.http.listen == ("", ports["http"])
    assert settings.http.debug.addr == (f":{ports['metrics']}" if "metrics" in ports else "")
    assert mounts[settings.storage.filesystem.rootdirectory]["name"] == "blobs"
    assert "readOnly" not in mounts[settings.storage.filesystem.rootdirectory]
    assert mounts[Path("/etc/distribution")]["name"] == "config", "where the image looks"
    if settings.auth.htpasswd:
        assert mounts[settings.auth.htpasswd.path.parent]["name"] == "htpasswd"
        (secret,) = [volume["secret"] for volume in spec["volumes"] if volume["name"] == "htpasswd"]
        made_here = objects(made, "Secret")
        assert secret["secretName"] in {"passwords", "hatoba-htpasswd", *(one["metadata"]["name"] for one in made_here)}
        assert all(settings.auth.htpasswd.path.name in one["stringData"] for one in made_here)
    tls = configuration(made)["http"].get("tls")
    assert (Path("/tls") in mounts) == (tls is not None)
    assert tls in (None, {"certificate": "/tls/tls.crt", "key": "/tls/tls.key"})
    volumes = {volume["name"] for volume in spec["volumes"]}
    volumes |= {claim["metadata"]["name"] for claim in server(made).get("volumeClaimTemplates", ())}
    assert {mount["name"] for mount in mounts.values()} == volumes
    assert Path("/tmp") in mounts  # noqa: S108  the pod's
    assert spec["securityContext"]["fsGroup"] == spec["securityContext"]["runAsUser"]


def test_the_pod_may_drain_before_it_is_killed(made):
    settings = settings_of(configuration(made))
    grace = server(made)["template"]["spec"]["terminationGracePeriodSeconds"]
    assert grace >= settings.http.draintimeout.total_seconds() + 10


def test_everything_leads_to_the_server(made):
    """Service, ingress, policy and monitor: labels and ports that are there."""
    labels = server(made)["template"]["metadata"]["labels"].items()
    (container,) = server(made)["template"]["spec"]["containers"]
    names = {port["name"] for port in container["ports"]}
    services = {entry["metadata"]["name"]: entry for entry in objects(made, "Service")}
    for service in services.values():
        assert service["spec"]["selector"].items() <= labels
        assert {port["targetPort"] for port in service["spec"]["ports"]} <= names
    assert server(made)["serviceName"] in services
    for ingress in objects(made, "Ingress"):
        for rule in ingress["spec"]["rules"]:
            backend = rule["http"]["paths"][0]["backend"]["service"]
            assert backend["port"]["name"] in {port["name"] for port in services[backend["name"]]["spec"]["ports"]}
        assert ingress["spec"]["tls"][0]["hosts"] == [rule["host"] for rule in ingress["spec"]["rules"]]
    for policy in objects(made, "NetworkPolicy"):
        assert policy["spec"]["podSelector"]["matchLabels"].items() <= labels
        assert policy["spec"]["egress"] == []
        assert {rule["ports"][0]["port"] for rule in policy["spec"]["ingress"]} == names
        assert all(rule["from"] for rule in policy["spec"]["ingress"]), "an empty list lets everybody in"
    for monitor in objects(made, "ServiceMonitor"):
        wanted = monitor["spec"]["selector"]["matchLabels"].items()
        (service,) = [one for one in services.values() if wanted <= one["metadata"]["labels"].items()]
        assert monitor["spec"]["endpoints"][0]["port"] == service["spec"]["ports"][0]["name"]


def test_versions_agree(kustomized):
    project = tomllib.loads((DEPLOY.parent / "pyproject.toml").read_text("utf-8"))["project"]["version"]
    assert yaml.safe_load((CHART / "Chart.yaml").read_text("utf-8"))["appVersion"] == project
    (container,) = server(kustomized)["template"]["spec"]["containers"]
    assert container["image"].endswith(f":{project}")


def test_a_pod_of_a_test_is_none_of_the_server(template):
    made = template(*CHOICES["everything"])
    (test,) = objects(made, "Pod")
    assert not server(made)["selector"]["matchLabels"].items() <= test["metadata"]["labels"].items()
    url = re.search(r'"(https?)://([\w-]+):(\d+)(/\S*)"', test["spec"]["containers"][0]["args"][0])
    services = {one["metadata"]["name"]: one for one in objects(made, "Service")}
    assert (url[1], url[4]) == ("https", "/healthz/ready")
    assert int(url[3]) == services[url[2]]["spec"]["ports"][0]["port"]
    compile(test["spec"]["containers"][0]["args"][0], "test", "exec")


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ((), "set one of auth.existingSecret"),
        ((SECRET, "auth.anonymous=true"), "set one of auth.existingSecret"),
        ((SECRET, "auth.passwd=x"), "passwd"),
        ((SECRET, "service.port=0"), "port"),
        ((SECRET, "workers=0"), "workers"),
        ((SECRET, "runAsUser=0"), "runAsUser"),
        ((SECRET, "persistence.size=lots"), "size"),
        ((SECRET, "persistence.size=5K"), "size"),
        ((SECRET, "ingress.hosts={}"), "hosts"),
        ((SECRET, "metrics.port=5000"), "port"),
        ((SECRET, "extraEnv[0].name=TZ", "extraEnv[0].value=5"), "extraEnv"),
        ((SECRET, "podLabels.app\\.kubernetes\\.io/name=x"), "podLabels"),
        ((SECRET, "metrics.serviceMonitor.interval=often"), "interval"),
    ],
)
def test_wrong_values_are_refused(template, settings, words):
    done = template(*settings, check=False)
    assert done.returncode != 0
    assert words in done.stderr


def test_nobody_is_not_written_as_an_empty_list(tool):
    """Kubernetes reads it as everybody."""
    done = tool("helm", "lint", CHART, "--set", SECRET, "--set-json", "networkPolicy.metricsFrom=[]", check=False)
    assert done.returncode != 0
    assert "metricsFrom" in done.stdout + done.stderr


def test_every_value_is_in_the_schema_and_used():
    schema = json.loads((CHART / "values.schema.json").read_text("utf-8"))
    templates = "".join(path.read_text("utf-8") for path in CHART.glob("templates/**/*") if path.is_file())

    def walk(values, node, path):
        for key, value in values.items():
            assert key in node["properties"], f"{path}{key} is not in the schema"
            inner = node["properties"][key]
            if isinstance(value, dict) and "properties" in inner:
                walk(value, inner, f"{path}{key}.")
            else:
                assert f".Values.{path}{key}" in templates, f"{path}{key} is used nowhere"

    walk(yaml.safe_load((CHART / "values.yaml").read_text("utf-8")), schema, "")


def test_names_that_yaml_would_take_for_something_else(template):
    made = template(
        SECRET, "ingress.enabled=true", "ingress.hosts={*.example.com,on}", "persistence.storageClass=on",
        "ingress.tlsSecret=no", "image.tag=1.0",
    )  # fmt: skip
    ingress = objects(made, "Ingress")[0]["spec"]
    assert [rule["host"] for rule in ingress["rules"]] == ingress["tls"][0]["hosts"] == ["*.example.com", "on"]
    assert objects(made, "Ingress")[0]["spec"]["tls"][0]["secretName"] == "no"
    assert server(made)["volumeClaimTemplates"][0]["spec"]["storageClassName"] == "on"


@pytest.mark.parametrize("lines", ["  indented:$2y$05$x\nb:y", "a:\"q: #x\\'\n\n", "a:x\r\nb:\ty\n", "ü:x"])
def test_a_password_file_stays_as_it_is(template_of, lines):
    (secret,) = objects(template_of({"auth": {"htpasswd": lines}}), "Secret")
    assert secret["stringData"] == {"htpasswd": lines}


def test_large_numbers_stay_numbers(template_of):
    """A values file has them as floats, which Go writes as 1.00065e+09; OpenShift's users are as large."""
    config = {"hatoba": {"limits": {"manifest": 8388608}}}
    made = template_of({"auth": {"anonymous": True}, "runAsUser": 1000650000, "config": config})
    for _, spec in pods(made):
        assert repr(spec["securityContext"]["runAsUser"]) == repr(spec["securityContext"]["runAsGroup"]) == "1000650000"
    assert settings_of(configuration(made)).hatoba.limits.manifest == 8388608


def test_nothing_in_config(template):
    assert settings_of(configuration(template(SECRET, "config=null"))).http.listen == ("", 5000)


def test_an_ingress_without_a_certificate_of_its_own(template):
    (ingress,) = objects(template(SECRET, "ingress.enabled=true", "ingress.tlsSecret="), "Ingress")
    assert "tls" not in ingress["spec"]


def test_the_probes_paths_answer(kustomized, config, serving, free_port, tmp_path, e2e):
    """hatoba itself, started with the very configuration but for the places that are not here."""
    document = configuration(kustomized)
    debug_port = free_port()
    document["storage"]["filesystem"]["rootdirectory"] = str(tmp_path / "data")
    document["auth"]["htpasswd"]["path"] = str(tmp_path / "htpasswd")
    document["http"] |= {"addr": "127.0.0.1:0"}
    document["http"]["debug"]["addr"] = f"127.0.0.1:{debug_port}"
    path = tmp_path / "config.yml"
    path.write_text(yaml.safe_dump(document))
    (container,) = server(kustomized)["template"]["spec"]["containers"]
    with serving(None, path) as running:
        for probe in ("livenessProbe", "readinessProbe", "startupProbe"):
            asked = container[probe]["httpGet"]
            assert asked["port"] == "http"
            with urllib.request.urlopen(f"http://{running.host}{asked['path']}", timeout=30) as answer:
                assert answer.status == 200, probe
        password = re.search(r"password=(\S+)", running.err)[1]
        asked = urllib.request.Request(f"http://{running.host}/v2/")
        asked.add_header("Authorization", "Basic " + base64.b64encode(f"admin:{password}".encode()).decode())
        with urllib.request.urlopen(asked, timeout=30) as answer:  # noqa: S310
            assert answer.status == 200
        with urllib.request.urlopen(f"http://127.0.0.1:{debug_port}/metrics", timeout=30) as answer:
            assert f"{REQUESTS.name}{{" in answer.read().decode()


def test_the_deployments_agree_with_the_image(kustomized, template):
    dockerfile = DEPLOY / "Dockerfile"
    text = dockerfile.read_text("utf-8")
    for made in (kustomized, template(SECRET)):
        settings = settings_of(configuration(made))
        assert f"EXPOSE {settings.http.listen[1]}\n" in text
        assert f"VOLUME {settings.storage.filesystem.rootdirectory}\n" in text
        assert 'CMD ["serve", "/etc/distribution/config.yml"]' in text
        (container,) = server(made)["template"]["spec"]["containers"]
        assert not {"command", "args"} & set(container), "the image's own"
    (test,) = objects(template(SECRET), "Pod")
    assert test["spec"]["containers"][0]["command"][0].removesuffix("/bin/python") in text
