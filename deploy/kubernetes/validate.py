"""Checks what `kubectl kustomize` made against schemas: core kinds by kubernetes-validate, others by their operators' CRDs.
Then what no schema says: checks.py.

    validate.py OVERLAY FILE [CRD_FOLDER...]

Unknown fields are errors. Kinds without a schema are listed as unvalidated. Exit status 1 where something is wrong.
"""

import collections
import copy
import pathlib
import sys

import jsonschema
import kubernetes_validate
import yaml

import checks

VERSION = "1.33"


def strict(schema):
    """An OpenAPI schema of a CRD as JSON Schema that refuses fields it doesn't name."""
    if not isinstance(schema, dict):
        return schema
    if schema.get("x-kubernetes-int-or-string"):
        return {"type": ["integer", "string"]}
    schema = {key: value for key, value in schema.items() if key not in ("format", "default", "description")}
    if "properties" in schema:
        schema["properties"] = {name: strict(value) for name, value in schema["properties"].items()}
        if not schema.get("x-kubernetes-preserve-unknown-fields"):
            schema.setdefault("additionalProperties", False)
    for key in ("items", "additionalProperties", "not"):
        if isinstance(schema.get(key), dict):
            schema[key] = strict(schema[key])
    return schema


class Loader(yaml.SafeLoader):
    """YAML as Kubernetes reads it."""


# In YAML 1.1 a bare "=" is a type of its own; one of the Prometheus operator's CRDs has it in an enumeration.
Loader.add_constructor("tag:yaml.org,2002:value", Loader.construct_yaml_str)


def crds(folders, kinds):
    """The schemas of these kinds: to read all that operators have takes many seconds."""
    found = {}
    for folder in folders:
        for path in sorted(pathlib.Path(folder).glob("*.yaml")):
            text = path.read_text()
            if not any(f"\n    kind: {kind}\n" in text for kind in kinds):
                continue
            for crd in yaml.load_all(text, Loader):
                if not crd or crd.get("kind") != "CustomResourceDefinition":
                    continue
                spec = crd["spec"]
                for version in spec["versions"]:
                    schema = copy.deepcopy(version["schema"]["openAPIV3Schema"])
                    schema["properties"]["metadata"] = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
                    key = (f"{spec['group']}/{version['name']}", spec["names"]["kind"])
                    found[key] = jsonschema.Draft7Validator(strict(schema))
    return found


def main():
    overlay, rendered, *folders = sys.argv[1:]
    documents = list(yaml.safe_load_all(pathlib.Path(rendered).read_text()))
    schemas = crds(folders, {document["kind"] for document in documents})
    valid, unvalidated, wrong = collections.Counter(), collections.Counter(), []
    for document in documents:
        kind, version = document["kind"], document["apiVersion"]
        name = f"{kind} {document['metadata']['name']}"
        group = version.split("/")[0] if "/" in version else ""
        if (version, kind) in schemas:
            errors = [f"{'.'.join(map(str, e.absolute_path))}: {e.message}" for e in schemas[version, kind].iter_errors(document)]
        elif "." not in group or group.endswith(".k8s.io"):
            try:
                kubernetes_validate.validate(document, VERSION, strict=True)
                errors = []
            except kubernetes_validate.ValidationError as error:
                errors = [f"{'.'.join(map(str, error.path))}: {error.message}"]
        else:
            unvalidated[f"{version} {kind}"] += 1
            continue
        valid[f"{version} {kind}"] += 1
        wrong += [f"{name}: {error}" for error in errors]
    for title, counted in (("checked", valid), ("unvalidated", unvalidated)):
        for kind, count in sorted(counted.items()):
            print(f"{overlay}: {title:12} {count:3} {kind}")
    wrong += checks.wrong(documents)
    for error in wrong:
        print(f"{overlay}: WRONG {error}", file=sys.stderr)
    return 1 if wrong else 0


sys.exit(main())
