"""What no schema says of the manifests: that they fit together, and fit the images, the programs and the documents.

Each check takes an overlay as `kubectl kustomize` made it and yields what is wrong with it. checks_test.py takes each of
them something away and sees it complain.
"""

import base64
import functools
import pathlib
import re

import yaml

ROOT = pathlib.Path(__file__).resolve().parents[2]
OURS = re.compile(r"(?:^|/)order-suite/(?P<program>[a-z-]+)(?::|$)")
# host:port with or without a scheme before it, or scheme://host; a user and a password are passed over.
ADDRESS = re.compile(
    r"(?:(?P<scheme>[A-Za-z][A-Za-z+]*)://(?:[^\s/@,]*@)?|(?<![\w.:/-]))(?P<host>[a-z][a-z0-9.-]*)(?::(?P<port>\d+))?(?![\w:-])"
)
SCHEME_PORTS = {"http": 80, "https": 443}
# What a service may open beside its pool: shared/service/src/config.rs, `database_pool_size`.
CONNECTIONS_BESIDE_THE_POOL = 5
# PostgreSQL keeps 3 for superusers; CloudNativePG's instance manager and exporter, and whoever looks, need some.
CONNECTIONS_OF_OPERATORS = 20
# The first Strimzi that knows a Kafka, by Strimzi's list of changes.
STRIMZI_FOR_KAFKA = {"4.3.0": "1.1.0"}


@functools.cache
def read(path):
    return (ROOT / path).read_text()


class Overlay:
    """The manifests of one overlay."""

    def __init__(self, documents):
        self.documents = documents
        namespaces = self.of_kind("Namespace")
        self.namespace = namespaces[0]["metadata"]["name"] if namespaces else None

    def of_kind(self, kind, group=""):
        return [d for d in self.documents if d["kind"] == kind and d["apiVersion"].startswith(group)]

    def workloads(self):
        """Name, pod template and specification of everything that has pods."""
        for kind in ("Deployment", "StatefulSet", "Job"):
            for document in self.of_kind(kind):
                yield f"{kind} {document['metadata']['name']}", document["spec"]["template"], document["spec"]

    def containers(self):
        for name, template, _ in self.workloads():
            spec = template["spec"]
            for container in spec.get("initContainers", []) + spec["containers"]:
                yield f"{name}, container {container['name']}", container

    def values(self, kind, name):
        """The values of a ConfigMap or Secret; None where it is not among the manifests."""
        for document in self.of_kind(kind):
            if document["metadata"]["name"] == name:
                plain = kind == "ConfigMap"
                data = document.get("data", {}).items()
                return {key: value if plain else base64.b64decode(value).decode() for key, value in data}
        return None

    def environment(self, container):
        """What the container will see, its image's variables included; None is a value that is not in the manifests."""
        seen = dict(image_environment(container["image"]))
        for source in container.get("envFrom", []):
            seen |= self.values("ConfigMap", source["configMapRef"]["name"]) or {}
        for variable in container.get("env", []):
            value = variable.get("value")
            if "valueFrom" in variable:
                (source, key), = variable["valueFrom"].items()
                kind = {"secretKeyRef": "Secret", "configMapKeyRef": "ConfigMap"}.get(source)
                value = (self.values(kind, key["name"]) or {}).get(key["key"]) if kind else None
            elif value is not None:
                value = re.sub(r"\$\((\w+)\)", lambda name: seen.get(name[1]) or name[0], value)
            seen[variable["name"]] = value
        return seen


@functools.cache
def dockerfile_environments():
    """ENV of each stage of deploy/Dockerfile, with what it has from the stage that it starts from."""
    stages, current = {}, {}
    for line in read("deploy/Dockerfile").splitlines():
        words = line.split()
        if words[:1] == ["FROM"]:
            current = stages[words[3]] = dict(stages.get(words[1], {}))
        elif words[:1] == ["ENV"]:
            current |= dict(re.findall(r'(\w+)=("[^"]*"|\S+)', line))
    return stages


def image_environment(image):
    ours = OURS.search(image)
    return dockerfile_environments().get(ours["program"], {}) if ours else {}


def ports(containers):
    """The ports that containers declare, by name and by number."""
    declared = [port for container in containers for port in container.get("ports", [])]
    return {port["name"]: port["containerPort"] for port in declared if "name" in port}, {p["containerPort"] for p in declared}


def programs_listen_on_their_ports(overlay):
    for name, container in overlay.containers():
        named, numbers = ports([container])
        for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
            for kind in ("httpGet", "tcpSocket"):
                port = container.get(probe, {}).get(kind, {}).get("port")
                if port is not None and port not in named and port not in numbers:
                    yield f"{name}: {probe} asks the port {port}, which it does not have"
        if "http" not in named or not OURS.search(container["image"]):
            continue
        address = overlay.environment(container).get("HTTP_ADDR") or "nothing"
        host, _, port = address.rpartition(":")
        if port != str(named["http"]) or host not in ("0.0.0.0", "[::]"):
            yield f"{name}: listens on {address}, and its port http is {named['http']}"


def services(overlay):
    """The ports of each Service: those in the manifests, and those that operators make."""
    found = {s["metadata"]["name"]: {port["port"] for port in s["spec"]["ports"]} for s in overlay.of_kind("Service")}
    for kafka in overlay.of_kind("Kafka", "kafka.strimzi.io"):
        inside = {listener["port"] for listener in kafka["spec"]["kafka"]["listeners"] if listener["type"] == "internal"}
        found[f"{kafka['metadata']['name']}-kafka-bootstrap"] = inside
    for cluster in overlay.of_kind("Cluster", "postgresql.cnpg.io"):
        found |= {f"{cluster['metadata']['name']}-{role}": {5432} for role in ("rw", "ro", "r")}
    return found


def addresses(text):
    for match in ADDRESS.finditer(text):
        port = match["port"] or SCHEME_PORTS.get(match["scheme"])
        if port:
            yield match["host"], int(port)


def addresses_are_services_ports(overlay):
    told = [(name, overlay.environment(container).items()) for name, container in overlay.containers()]
    for scaler in overlay.of_kind("ScaledObject"):
        told += [(f"ScaledObject {scaler['metadata']['name']}", t["metadata"].items()) for t in scaler["spec"]["triggers"]]
    found = services(overlay)
    for name, values in told:
        for variable, value in values:
            for host, port in addresses(value or ""):
                service, _, namespace = host.partition(".")
                namespace = namespace.removesuffix(".svc.cluster.local").removesuffix(".svc")
                if host == "localhost" or namespace not in ("", overlay.namespace):
                    continue
                if port not in found.get(service, ()):
                    yield f"{name}: {variable} names {host}:{port}, and no Service has that"


def services_lead_to_pods(overlay):
    for service in overlay.of_kind("Service"):
        name, selector = f"Service {service['metadata']['name']}", service["spec"]["selector"].items()
        behind = [t["spec"]["containers"] for _, t, _ in overlay.workloads() if selector <= t["metadata"]["labels"].items()]
        if not behind:
            yield f"{name}: selects no pod"
        for containers in behind:
            named, numbers = ports(containers)
            for port in service["spec"]["ports"]:
                target = port.get("targetPort", port["port"])
                if target not in named and target not in numbers:
                    yield f"{name}: its port {port['port']} leads to {target}, which its pods do not have"


def operator_tokens_are_accepted(overlay):
    (shortest,) = re.findall(r"MIN_TOKEN_CHARS: usize = (\d+);", read("shared/service/src/operator/mod.rs"))
    for name, container in overlay.containers():
        token = overlay.environment(container).get("OPERATOR_TOKEN")
        if token and len(token) < int(shortest):
            yield f"{name}: OPERATOR_TOKEN has {len(token)} characters, and {shortest} are the fewest"


def pods_are_admitted(overlay):
    """Pod security `restricted`, where the namespace enforces it. Strimzi's pods are its operator's business."""
    labels = [n["metadata"].get("labels", {}).get("pod-security.kubernetes.io/enforce") for n in overlay.of_kind("Namespace")]
    if labels != ["restricted"]:
        return
    for name, template, _ in overlay.workloads():
        pod = template["spec"]
        for container in pod.get("initContainers", []) + pod["containers"]:
            own = container.get("securityContext", {})
            both = pod.get("securityContext", {}) | own
            if (
                both.get("runAsNonRoot") is not True
                or both.get("seccompProfile", {}).get("type") != "RuntimeDefault"
                or own.get("allowPrivilegeEscalation") is not False
                or own.get("capabilities") != {"drop": ["ALL"]}
            ):
                yield f"{name}, container {container['name']}: is not admitted where `restricted` is enforced"
    setting = "STRIMZI_POD_SECURITY_PROVIDER_CLASS=restricted"
    if overlay.of_kind("Kafka") and setting not in read("docs/kubernetes.md"):
        yield f"Kafka: its pods need {setting}, and docs/kubernetes.md does not say so"


def kafka_is_as_strimzi_makes_it(overlay):
    for kafka in overlay.of_kind("Kafka", "kafka.strimzi.io"):
        version = kafka["spec"]["kafka"]["version"]
        strimzi = f"Strimzi {STRIMZI_FOR_KAFKA.get(version, f'for Kafka {version}, which this check does not know,')}"
        for document in ("docs/kubernetes.md", "deploy/kubernetes/components/kafka/kustomization.yaml"):
            if strimzi not in read(document):
                yield f"Kafka: {document} does not ask for {strimzi}"
    for pool in overlay.of_kind("KafkaNodePool"):
        brokers = {"strimzi.io/name": f"{pool['metadata']['labels']['strimzi.io/cluster']}-kafka"}
        affinity = pool["spec"]["template"]["pod"]["affinity"]["podAntiAffinity"]
        for term in affinity["requiredDuringSchedulingIgnoredDuringExecution"]:
            if term["labelSelector"] != {"matchLabels": brokers}:
                yield f"KafkaNodePool {pool['metadata']['name']}: keeps away from more than brokers, {brokers}"


def alerts_are_those_of_compose(overlay):
    monitors = overlay.of_kind("PodMonitor")
    if not monitors:
        return
    jobs = {scrape["job_name"] for scrape in yaml.safe_load(read("deploy/prometheus/prometheus.yml"))["scrape_configs"]}
    scraped = set()
    for monitor in monitors:
        spec = monitor["spec"]
        for name, template, _ in overlay.workloads():
            labels = template["metadata"]["labels"]
            if not spec["selector"]["matchLabels"].items() <= labels.items():
                continue
            scraped.add(labels.get(spec.get("jobLabel")))
            for endpoint in spec["podMetricsEndpoints"]:
                if endpoint["port"] not in ports(template["spec"]["containers"])[0]:
                    yield f"PodMonitor {monitor['metadata']['name']}: {name} has no port {endpoint['port']}"
    if scraped != jobs:
        yield f"PodMonitor: its jobs are {scraped}, and the alerts and dashboards know {jobs}"
    rules = [group for rule in overlay.of_kind("PrometheusRule") for group in rule["spec"]["groups"]]
    if rules != yaml.safe_load(read("deploy/prometheus/alerts.yml"))["groups"]:
        yield "PrometheusRule: it is not deploy/prometheus/alerts.yml: deploy/kubernetes/rules.sh makes it anew"


def connections_suffice(overlay):
    """In a rollout: one instance more starts, while one that was replaced still drains."""
    most = {s["spec"]["scaleTargetRef"]["name"]: s["spec"]["maxReplicaCount"] for s in overlay.of_kind("ScaledObject")}
    for cluster in overlay.of_kind("Cluster", "postgresql.cnpg.io"):
        limits = {role["name"]: role["connectionLimit"] for role in cluster["spec"]["managed"]["roles"]}
        for deployment in overlay.of_kind("Deployment"):
            name, spec = deployment["metadata"]["name"], deployment["spec"]
            environment = overlay.environment(spec["template"]["spec"]["containers"][0])
            role = re.match(r"postgres://(\w+):", environment["DATABASE_URL"])[1]
            instances = most.get(name, spec.get("replicas", 1)) + spec["strategy"]["rollingUpdate"]["maxSurge"] + 1
            needed = instances * (int(environment["DATABASE_POOL_SIZE"]) + CONNECTIONS_BESIDE_THE_POOL)
            if limits[role] < needed:
                yield f"Cluster: {role} may have {limits[role]} connections, and {instances} instances take {needed}"
        needed = sum(limits.values()) + CONNECTIONS_OF_OPERATORS
        if int(cluster["spec"]["postgresql"]["parameters"]["max_connections"]) < needed:
            yield f"Cluster: max_connections is less than what its roles may have and operators need, {needed}"


CHECKS = (
    programs_listen_on_their_ports,
    addresses_are_services_ports,
    services_lead_to_pods,
    operator_tokens_are_accepted,
    pods_are_admitted,
    kafka_is_as_strimzi_makes_it,
    alerts_are_those_of_compose,
    connections_suffice,
)


def wrong(documents):
    overlay = Overlay(documents)
    return [complaint for check in CHECKS for complaint in check(overlay)]
