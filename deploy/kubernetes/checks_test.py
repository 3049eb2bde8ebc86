"""Takes each check of checks.py something away, in the overlays that were built into FOLDER, and sees it complain.

    checks_test.py FOLDER
"""

import base64
import copy
import pathlib
import sys
import unittest
import unittest.mock

import yaml

import checks

BUILT = pathlib.Path(sys.argv.pop())


class Checks(unittest.TestCase):
    def setUp(self):
        built = {name: yaml.safe_load_all((BUILT / f"{name}.yaml").read_text()) for name in ("local", "production")}
        self.overlays = {name: list(documents) for name, documents in built.items()}

    def find(self, overlay, kind, name):
        """The manifest of that kind whose name is `name`, but for kustomize's suffix."""
        (found,) = [
            document
            for document in self.overlays[overlay]
            if document["kind"] == kind and f"{document['metadata']['name']}-".startswith(f"{name}-")
            and len(document["metadata"]["name"]) in (len(name), len(name) + 11)
        ]
        return found

    def settings(self, overlay):
        return self.find(overlay, "ConfigMap", "suite")["data"]

    def container(self, overlay, name):
        return self.find(overlay, "Deployment", name)["spec"]["template"]["spec"]["containers"][0]

    def refuses(self, overlay, *parts):
        complaints = checks.wrong(self.overlays[overlay])
        self.assertTrue(any(all(part in complaint for part in parts) for complaint in complaints), complaints)

    def with_text(self, path, old, new):
        """Reads this file with something else in it."""
        read = checks.read
        self.assertIn(old, read(path))
        changed = lambda asked: read(asked).replace(old, new) if asked == path else read(asked)
        patch = unittest.mock.patch.object(checks, "read", changed)
        patch.start()
        self.addCleanup(patch.stop)

    def test_the_overlays_are_right(self):
        for documents in self.overlays.values():
            self.assertEqual(checks.wrong(documents), [])

    def test_a_program_that_listens_where_its_image_says(self):
        for overlay in self.overlays:
            del self.settings(overlay)["HTTP_ADDR"]
            self.refuses(overlay, "Deployment payment-service, container service: listens on 0.0.0.0:8081")
        gateway = self.container("local", "sandbox-gateway")
        gateway["env"] = [variable for variable in gateway["env"] if variable["name"] != "HTTP_ADDR"]
        self.refuses("local", "sandbox-gateway", "listens on 0.0.0.0:8090, and its port http is 8080")

    def test_a_program_that_only_its_own_pod_reaches(self):
        self.settings("local")["HTTP_ADDR"] = "127.0.0.1:8080"
        self.refuses("local", "listens on 127.0.0.1:8080")

    def test_a_probe_of_a_port_that_is_not_there(self):
        self.container("production", "order-service")["livenessProbe"]["httpGet"]["port"] = "metrics"
        self.refuses("production", "livenessProbe asks the port metrics")

    def test_an_address_that_no_service_has(self):
        secret = self.find("local", "Secret", "payment-gateway")["data"]
        for wrong in ("http://sandbox-gateway:8090", "http://sandbox-gateway", "http://gateway:8080"):
            secret["url"] = base64.b64encode(wrong.encode())
            self.refuses("local", "Deployment payment-service", "GATEWAY_URL names")

    def test_an_address_of_what_operators_make(self):
        self.settings("production")["KAFKA_BOOTSTRAP"] = "suite-kafka-bootstrap:9092"
        self.refuses("production", "KAFKA_BOOTSTRAP names suite-kafka-bootstrap:9092")
        self.settings("production")["DATABASE_HOST"] = "suite-db-rw.order-suite.svc:5432"
        self.refuses("production", "DATABASE_URL names suite-db-rw.order-suite.svc:5432")

    def test_a_service_that_leads_nowhere(self):
        self.find("local", "Service", "sandbox-gateway")["spec"]["ports"][0]["port"] = 8090
        self.refuses("local", "Service sandbox-gateway: its port 8090 leads to 8090")
        self.find("local", "Service", "maildev")["spec"]["selector"] = {"app.kubernetes.io/name": "mail"}
        self.refuses("local", "Service maildev: selects no pod")

    def test_a_token_that_services_refuse(self):
        self.find("local", "Secret", "suite-operator")["data"]["token"] = base64.b64encode(b"local-operator")
        self.refuses("local", "OPERATOR_TOKEN has 14 characters, and 16 are the fewest")

    def test_pods_that_the_namespace_refuses(self):
        del self.container("production", "inventory-service")["securityContext"]["allowPrivilegeEscalation"]
        self.refuses("production", "Deployment inventory-service, container service: is not admitted")
        self.with_text("docs/kubernetes.md", "STRIMZI_POD_SECURITY_PROVIDER_CLASS", "SETTING")
        self.refuses("production", "Kafka: its pods need")

    def test_a_strimzi_that_does_not_know_this_kafka(self):
        self.with_text("docs/kubernetes.md", "Strimzi 1.1.0", "Strimzi 0.49")
        self.refuses("production", "docs/kubernetes.md does not ask for Strimzi 1.1.0")
        self.find("production", "Kafka", "suite")["spec"]["kafka"]["version"] = "4.4.0"
        self.refuses("production", "Strimzi for Kafka 4.4.0, which this check does not know")

    def test_brokers_that_keep_away_from_more_than_brokers(self):
        pod = self.find("production", "KafkaNodePool", "broker")["spec"]["template"]["pod"]
        (term,) = pod["affinity"]["podAntiAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]
        term["labelSelector"]["matchLabels"] = {"strimzi.io/cluster": "suite"}
        self.refuses("production", "KafkaNodePool broker: keeps away from more than brokers")

    def test_jobs_and_alerts_that_compose_does_not_have(self):
        right = copy.deepcopy(self.overlays["production"])
        del self.find("production", "PodMonitor", "order-suite")["spec"]["jobLabel"]
        self.refuses("production", "PodMonitor: its jobs are {None}")
        self.overlays["production"] = copy.deepcopy(right)
        self.find("production", "PrometheusRule", "order-suite")["spec"]["groups"][0]["rules"][0]["for"] = "5m"
        self.refuses("production", "deploy/kubernetes/rules.sh makes it anew")
        self.overlays["production"] = [document for document in right if document["kind"] != "PrometheusRule"]
        self.refuses("production", "deploy/kubernetes/rules.sh makes it anew")

    def test_connections_that_a_rollout_exceeds(self):
        cluster = self.find("production", "Cluster", "suite-database")["spec"]
        cluster["managed"]["roles"][0]["connectionLimit"] = 60
        self.refuses("production", "order_service may have 60 connections, and 6 instances take 90")
        cluster["postgresql"]["parameters"]["max_connections"] = "250"
        self.refuses("production", "max_connections is less")


if __name__ == "__main__":
    unittest.main()
