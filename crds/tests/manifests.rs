//! The generated chart equals the types, every kind is bounded, and each good manifest fits the types. What the API
//! server says of the good and the bad ones, `tests/manifests/check` asks it.
#![cfg(test)]

use std::fs;
use std::path::{Path, PathBuf};

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn yaml(crd: &CustomResourceDefinition) -> String {
    format!(
        "# Generated from crds/ by `UPDATE=1 cargo test -p berth-crds`. Do not edit.\n{}",
        serde_yaml::to_string(crd).expect("a CRD serialises")
    )
}

#[test]
fn chart_is_what_the_types_say() {
    let folder = root().join("charts/berth-crds/templates");
    let update = std::env::var_os("UPDATE").is_some();
    for crd in berth_crds::all() {
        let path = folder.join(format!("{}.yaml", crd.spec.names.plural));
        let wanted = yaml(&crd);
        if update {
            fs::create_dir_all(&folder).expect("the folder can be made");
            fs::write(&path, &wanted).expect("the file can be written");
        }
        let found = fs::read_to_string(&path).unwrap_or_default();
        assert!(
            found == wanted,
            "{} is stale: run UPDATE=1 cargo test -p berth-crds",
            path.display()
        );
    }
}

#[test]
fn every_spec_string_list_and_map_has_a_bound() {
    for crd in berth_crds::all() {
        let json = serde_json::to_value(&crd).expect("a CRD serialises");
        let spec = &json["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"];
        let mut unbounded = Vec::new();
        walk(spec, "spec", &mut unbounded);
        assert_eq!(unbounded, Vec::<String>::new(), "{}", crd.spec.names.kind);
    }
}

/// Kubernetes' own types (resources, affinity, tolerations) come as they are.
const FOREIGN: [&str; 3] = ["spec.resources", "spec.affinity", "spec.tolerations[]"];

fn walk(schema: &serde_json::Value, path: &str, unbounded: &mut Vec<String>) {
    if FOREIGN.contains(&path) {
        return;
    }
    let missing = match schema["type"].as_str() {
        Some("string") => {
            schema.get("maxLength").is_none() && schema.get("enum").is_none() && schema.get("format").is_none()
        }
        Some("array") => schema.get("maxItems").is_none(),
        Some("object") if schema.get("additionalProperties").is_some() => schema.get("maxProperties").is_none(),
        _ => false,
    };
    if missing {
        unbounded.push(path.to_owned());
    }
    for (name, property) in schema["properties"].as_object().into_iter().flatten() {
        walk(property, &format!("{path}.{name}"), unbounded);
    }
    if let Some(items) = schema.get("items") {
        walk(items, &format!("{path}[]"), unbounded);
    }
}

#[test]
fn no_list_item_has_a_default() {
    for crd in berth_crds::all() {
        let json = serde_json::to_value(&crd).expect("a CRD serialises");
        let spec = &json["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"];
        assert!(!defaults_in_items(spec, false), "{}", crd.spec.names.kind);
    }
}

fn defaults_in_items(schema: &serde_json::Value, inside: bool) -> bool {
    if inside && schema.get("default").is_some() {
        return true;
    }
    schema["properties"]
        .as_object()
        .is_some_and(|all| all.values().any(|property| defaults_in_items(property, inside)))
        || schema.get("items").is_some_and(|items| defaults_in_items(items, true))
}

#[test]
fn every_field_of_a_spec_is_documented() {
    for crd in berth_crds::all() {
        let json = serde_json::to_value(&crd).expect("a CRD serialises");
        let spec = &json["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"];
        for (name, property) in spec["properties"].as_object().expect("a spec has fields") {
            assert!(
                property.get("description").is_some(),
                "{}.spec.{name}",
                crd.spec.names.kind
            );
        }
    }
}

#[test]
fn good_manifests_fit_the_types() {
    let files = manifests("good");
    assert!(files.len() >= 8, "there are {}", files.len());
    for (path, text) in files {
        let value: serde_json::Value = serde_saphyr::from_str(&text).expect("a manifest is YAML");
        let error = match value["kind"].as_str() {
            Some("AgentPool") => serde_json::from_value::<berth_crds::AgentPool>(value).err(),
            Some("AgentSession") => serde_json::from_value::<berth_crds::AgentSession>(value).err(),
            Some("CredentialBinding") => serde_json::from_value::<berth_crds::CredentialBinding>(value).err(),
            Some("GitSource") => serde_json::from_value::<berth_crds::GitSource>(value).err(),
            Some("GrantPolicy") => serde_json::from_value::<berth_crds::GrantPolicy>(value).err(),
            kind => panic!("{}: kind {kind:?}", path.display()),
        };
        assert!(error.is_none(), "{}: {error:?}", path.display());
    }
}

#[test]
fn bad_manifests_say_what_they_expect() {
    let files = manifests("bad");
    assert!(files.len() >= 40, "there are {}", files.len());
    for (path, text) in files {
        let expected = text.lines().next().and_then(|line| line.strip_prefix("# expect: "));
        assert!(
            expected.is_some_and(|expected| expected.len() > 10),
            "{}",
            path.display()
        );
    }
}

fn manifests(folder: &str) -> Vec<(PathBuf, String)> {
    let folder = fs::read_dir(root().join("tests/manifests").join(folder)).expect("the folder can be read");
    let paths = folder.map(|entry| entry.expect("an entry can be read").path());
    paths
        .map(|path| (path.clone(), fs::read_to_string(&path).expect("the file can be read")))
        .collect()
}
