//! Allowed connections: all that are needed pass the network policies of both ends, and no
//! others do.

use std::net::Ipv4Addr;

use serde_json::{Value, json};

use crate::document::{Document, containers, named, selects};

/// From, to, and the port there.
type Flow = (&'static str, &'static str, u16);

/// Pods are named by their label `app`.
const NEEDED: &[Flow] = &[
    ("db-setup-job", "lambda-postgres", 5432),
    ("lambda-consumer", "lambda-postgres", 5432),
    ("lambda-csv-batch", "lambda-postgres", 5432),
    ("lambda-pgadmin", "lambda-postgres", 5432),
    ("postgres-backup", "lambda-postgres", 5432),
    ("postgres-restore", "lambda-postgres", 5432),
    ("lambda-postgres", "lambda-postgres", 5432),
    ("lambda-postgres", "lambda-postgres", 8008),
    ("lambda-postgres", API_SERVER, 443),
    ("lambda-postgres", API_SERVER, 6443),
    ("lambda-postgres", API_SERVER, 8443),
    ("lambda-consumer", "kafka", 9092),
    ("lambda-producer-stream", "kafka", 9092),
    ("topic-setup-job", "kafka", 9092),
    ("kafka", "kafka", 9092),
    (PROMETHEUS, "lambda-consumer", 9464),
    (PROMETHEUS, "lambda-csv-batch", 9464),
    (PROMETHEUS, "lambda-producer-stream", 9464),
];

/// Connections if the brokers keep their metadata themselves, and if ZooKeeper does.
const WITH_KRAFT: &[Flow] = &[("kafka", "kafka", 9093)];
const WITH_ZOOKEEPER: &[Flow] = &[("kafka", "zookeeper", 2181)];

/// Connections if pgAdmin has a node port.
const BY_NODE_PORT: &[Flow] = &[(NODE, "lambda-pgadmin", 5050)];

const API_SERVER: &str = "the API server";
const DNS: &str = "DNS";
const NODE: &str = "a node";
const PROMETHEUS: &str = "Prometheus";

/// Rules for every peer, by policy and direction. The API server is not a pod, and its address
/// differs between clusters.
const FOR_ANYBODY: &[(&str, &str)] = &[("lambda-postgres", "egress")];

/// Addresses, by policy: the node-local DNS cache has this one everywhere, and the nodes of
/// Minikube and kind, whose ports people use, are in these ranges.
const ADDRESSES: &[(&str, &str)] = &[
    ("dns", "169.254.20.10/32"),
    ("lambda-pgadmin", "192.168.0.0/16"),
    ("lambda-pgadmin", "172.16.0.0/12"),
];

enum Place {
    Here,
    Namespace(&'static str),
    Address(Ipv4Addr),
}

/// An end of a connection.
struct End {
    name: String,
    place: Place,
    labels: Value,
    ports: Vec<(u16, &'static str)>,
}

impl End {
    fn is_here(&self) -> bool {
        matches!(self.place, Place::Here)
    }
}

fn ends(documents: &[Document]) -> Vec<End> {
    let mut ends = Vec::new();
    let pods = documents.iter().filter_map(Document::pod);
    for template in pods {
        let labels = template["metadata"]["labels"].clone();
        let ports =
            containers(template).flat_map(|it| it["ports"].as_array().into_iter().flatten());
        let ports = ports.filter_map(|port| Some((port["containerPort"].as_u64()? as u16, "TCP")));
        let name = labels["app"].as_str().unwrap_or_default().to_owned();
        ends.push(End { name, place: Place::Here, ports: ports.collect(), labels });
    }
    // A Job by hand.
    let restore = json!({ "app": "postgres-restore" });
    ends.push(End {
        name: "postgres-restore".into(),
        place: Place::Here,
        labels: restore,
        ports: vec![],
    });
    let mut outside = |name: &str, place: Place, labels: Value, ports: &[(u16, &'static str)]| {
        ends.push(End { name: name.into(), place, labels, ports: ports.to_vec() });
    };
    let dns = json!({ "k8s-app": "kube-dns" });
    outside(DNS, Place::Namespace("kube-system"), dns, &[(53, "UDP"), (53, "TCP")]);
    let prometheus = json!({ "app.kubernetes.io/name": "prometheus" });
    outside(PROMETHEUS, Place::Namespace("monitoring"), prometheus, &[]);
    let api_server = Place::Address(Ipv4Addr::new(10, 96, 0, 1));
    outside(API_SERVER, api_server, json!({}), &[(443, "TCP"), (6443, "TCP"), (8443, "TCP")]);
    outside(NODE, Place::Address(Ipv4Addr::new(192, 168, 49, 2)), json!({}), &[]);
    outside("a stranger", Place::Address(Ipv4Addr::new(203, 0, 113, 7)), json!({}), &[]);
    let namesake = json!({ "app": "lambda-consumer" });
    outside("a pod of another platform", Place::Namespace("dev2"), namesake, &[]);
    ends
}

fn is_in(range: &Value, address: Ipv4Addr) -> bool {
    let (base, bits) = range.as_str().and_then(|it| it.split_once('/')).expect("address/bits");
    let base: Ipv4Addr = base.parse().expect("an address");
    let bits: u32 = bits.parse().expect("a number of bits");
    let mask = u32::MAX.checked_shl(32 - bits).unwrap_or(0);
    u32::from(base) & mask == u32::from(address) & mask
}

/// Whether `from` or `to` of a rule matches this end.
fn admits(peers: &Value, end: &End, here: &str) -> bool {
    let Some(peers) = peers.as_array() else { return true };
    peers.iter().any(|peer| {
        let namespace = match end.place {
            Place::Address(address) => {
                let excepted = peer["ipBlock"]["except"].as_array().into_iter().flatten();
                let range = &peer["ipBlock"]["cidr"];
                return !range.is_null()
                    && is_in(range, address)
                    && !excepted.into_iter().any(|range| is_in(range, address));
            }
            Place::Here => here,
            Place::Namespace(name) => name,
        };
        let of_namespace = json!({ "kubernetes.io/metadata.name": namespace });
        let in_namespace = match &peer["namespaceSelector"] {
            Value::Null => end.is_here(),
            selector => selects(selector, &of_namespace),
        };
        peer["ipBlock"].is_null() && in_namespace && selects(&peer["podSelector"], &end.labels)
    })
}

fn admits_port(ports: &Value, (port, protocol): (u16, &str)) -> bool {
    let Some(ports) = ports.as_array() else { return true };
    ports.iter().any(|it| {
        let first = it["port"].as_u64();
        let last = it["endPort"].as_u64().or(first);
        let within = it["port"].is_null()
            || first
                .zip(last)
                .is_some_and(|(first, last)| (first..=last).contains(&u64::from(port)));
        within && it["protocol"].as_str().unwrap_or("TCP") == protocol
    })
}

/// Whether a policy has this direction, `ingress` or `egress`.
fn is_of(policy: &Document, direction: &str) -> bool {
    let types = policy.value["spec"]["policyTypes"].as_array().into_iter().flatten();
    types.filter_map(Value::as_str).any(|it| it.eq_ignore_ascii_case(direction))
}

fn policies(documents: &[Document]) -> impl Iterator<Item = &Document> {
    documents.iter().filter(|document| document.kind() == "NetworkPolicy")
}

/// The rules of a policy in a direction.
fn rules<'a>(policy: &'a Document, direction: &str) -> impl Iterator<Item = &'a Value> {
    let applies = is_of(policy, direction);
    let rules = policy.value["spec"][direction].as_array().into_iter().flatten();
    rules.filter(move |_| applies)
}

/// Whether the policies of one end allow the other; policies elsewhere are not ours.
fn side(
    documents: &[Document],
    direction: &str,
    one: &End,
    other: &End,
    port: (u16, &str),
) -> bool {
    let here = documents.iter().find(|it| it.kind() == "Namespace").map_or("", Document::name);
    let key = if direction == "ingress" { "from" } else { "to" };
    let mut own = policies(documents)
        .filter(|it| is_of(it, direction) && selects(&it.value["spec"]["podSelector"], &one.labels))
        .peekable();
    let allowed = |policy: &Document| {
        rules(policy, direction)
            .any(|it| admits(&it[key], other, here) && admits_port(&it["ports"], port))
    };
    !one.is_here() || own.peek().is_none() || own.any(allowed)
}

pub(crate) fn everything_is_denied_by_default(documents: &[Document]) -> Vec<String> {
    let denied = |direction: &str| {
        policies(documents).any(|policy| {
            let spec = &policy.value["spec"];
            spec["podSelector"] == json!({})
                && is_of(policy, direction)
                && spec[direction].is_null()
        })
    };
    let open = ["ingress", "egress"].into_iter().filter(|direction| !denied(direction));
    open.map(|direction| format!("no NetworkPolicy denies {direction} of every pod")).collect()
}

pub(crate) fn what_is_needed_passes_and_nothing_else(documents: &[Document]) -> Vec<String> {
    let ends = ends(documents);
    let mut needed = NEEDED.to_vec();
    let has_zookeeper = ends.iter().any(|end| end.name == "zookeeper");
    needed.extend(if has_zookeeper { WITH_ZOOKEEPER } else { WITH_KRAFT });
    let pgadmin = named(documents, "Service", "lambda-pgadmin");
    if pgadmin.is_some_and(|service| service.text("/spec/type") == "NodePort") {
        needed.extend(BY_NODE_PORT);
    }
    let mut broken = Vec::new();
    for (from, to, port) in &needed {
        let listens = |end: &End| end.name == *to && end.ports.iter().any(|(it, _)| it == port);
        if !ends.iter().any(listens) || !ends.iter().any(|end| end.name == *from) {
            broken.push(format!("{from} to port {port} of {to}: one of them does not exist"));
        }
    }
    for (from, to) in ends.iter().flat_map(|from| ends.iter().map(move |to| (from, to))) {
        if !from.is_here() && !to.is_here() {
            continue;
        }
        for port in &to.ports {
            let flow = |it: &Flow| it.0 == from.name && it.1 == to.name && it.2 == port.0;
            let is_needed = needed.iter().any(flow) || to.name == DNS;
            let leaves = side(documents, "egress", from, to, *port);
            let enters = side(documents, "ingress", to, from, *port);
            if is_needed != (leaves && enters) {
                let (from, to, port) = (&from.name, &to.name, port.0);
                broken.push(format!(
                    "{from} to port {port} of {to}: needed is {is_needed}; it leaves: {leaves}, \
                     it enters: {enters}"
                ));
            }
        }
    }
    broken
}

/// Each rule names its peers and ports; the exceptions are listed above.
pub(crate) fn rules_say_for_whom_and_where(documents: &[Document]) -> Vec<String> {
    let mut broken = Vec::new();
    for policy in policies(documents) {
        for (direction, key) in [("ingress", "from"), ("egress", "to")] {
            for rule in rules(policy, direction) {
                let mut say = |what: &str| {
                    broken.push(format!("{}: {direction} {what}", policy.title()));
                };
                let peers = rule[key].as_array().into_iter().flatten();
                let mut ranges = peers.filter_map(|peer| peer["ipBlock"]["cidr"].as_str());
                if rule[key].is_null() && !FOR_ANYBODY.contains(&(policy.name(), direction)) {
                    say("is for every peer");
                }
                if rule["ports"].is_null() {
                    say("is on any port");
                }
                if ranges.any(|range| !ADDRESSES.contains(&(policy.name(), range))) {
                    say("is for addresses without a reason");
                }
            }
        }
    }
    broken
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::{
        everything_is_denied_by_default, rules_say_for_whom_and_where,
        what_is_needed_passes_and_nothing_else,
    };
    use crate::{misses, misses_in, notices, overlay, remove, set};

    #[test]
    fn traffic_that_is_allowed_by_default_is_found() {
        let rule = everything_is_denied_by_default;
        misses(rule, "NetworkPolicy", "default-deny");
        notices(rule, "NetworkPolicy", "default-deny", |document| {
            document["spec"]["podSelector"] = json!({ "matchLabels": { "app": "kafka" } });
        });
        for kept in ["Ingress", "Egress"] {
            notices(rule, "NetworkPolicy", "default-deny", set("/spec/policyTypes", json!([kept])));
        }
        notices(rule, "NetworkPolicy", "default-deny", |document| {
            document["spec"]["egress"] = json!([{}]);
        });
    }

    #[test]
    fn each_missing_policy_is_found() {
        for overlay_name in ["minikube", "zookeeper", "production"] {
            let policies: Vec<String> = overlay(overlay_name)
                .iter()
                .filter(|it| it.kind() == "NetworkPolicy")
                .map(|it| it.name().to_owned())
                .collect();
            assert!(policies.len() > 5, "{policies:?}");
            for policy in policies {
                let rule = what_is_needed_passes_and_nothing_else;
                if policy != "default-deny" {
                    misses_in(overlay_name, rule, "NetworkPolicy", &policy);
                }
            }
        }
    }

    #[test]
    fn a_side_that_blocks_needed_traffic_is_found() {
        let rule = what_is_needed_passes_and_nothing_else;
        let first = "/spec/podSelector/matchExpressions/0/values";
        notices(rule, "NetworkPolicy", "postgres-clients", set(first, json!(["lambda-consumer"])));
        notices(rule, "NetworkPolicy", "kafka-clients", set(first, json!(["lambda-consumer"])));
        let port = |policy: &str, pointer: &'static str| {
            notices(rule, "NetworkPolicy", policy, set(pointer, json!(1)));
        };
        port("kafka", "/spec/ingress/0/ports/0/port");
        port("kafka", "/spec/ingress/1/ports/1/port");
        port("kafka", "/spec/egress/0/ports/1/port");
        port("lambda-postgres", "/spec/ingress/0/ports/0/port");
        port("lambda-postgres", "/spec/ingress/1/ports/1/port");
        port("lambda-postgres", "/spec/egress/0/ports/1/port");
        port("lambda-postgres", "/spec/egress/1/ports/1/port");
        port("lambda-pgadmin", "/spec/ingress/0/ports/0/port");
        port("metrics", "/spec/ingress/0/ports/0/port");
        notices(rule, "NetworkPolicy", "dns", set("/spec/egress/0/ports/0/protocol", json!("TCP")));
        let nodes = "/spec/ingress/0/from/0/ipBlock/cidr";
        notices(rule, "NetworkPolicy", "lambda-pgadmin", set(nodes, json!("172.18.0.0/16")));
        let label = "/spec/template/metadata/labels/app";
        notices(rule, "Deployment", "lambda-consumer", set(label, json!("consumer")));
        notices(rule, "StatefulSet", "kafka", remove("/spec/template/spec/containers/0", "ports"));
    }

    #[test]
    fn traffic_beyond_what_is_needed_is_found() {
        let rule = what_is_needed_passes_and_nothing_else;
        notices(rule, "NetworkPolicy", "lambda-pgadmin", remove("/spec/ingress/0", "from"));
        for from in
            [json!({ "namespaceSelector": {} }), json!({ "ipBlock": { "cidr": "0.0.0.0/0" } })]
        {
            notices(rule, "NetworkPolicy", "lambda-postgres", |document| {
                document["spec"]["ingress"][0]["from"] = json!([from]);
            });
        }
        notices(rule, "NetworkPolicy", "dns", |document| {
            document["spec"]["egress"] = json!([{}]);
        });
        notices(rule, "Service", "lambda-pgadmin", set("/spec/type", json!("ClusterIP")));
    }

    #[test]
    fn rules_for_every_peer_any_port_or_addresses_are_found() {
        let rule = rules_say_for_whom_and_where;
        notices(rule, "NetworkPolicy", "lambda-pgadmin", remove("/spec/ingress/0", "from"));
        notices(rule, "NetworkPolicy", "lambda-pgadmin", remove("/spec/ingress/0", "ports"));
        notices(rule, "NetworkPolicy", "lambda-postgres", remove("/spec/ingress/0", "ports"));
        notices(rule, "NetworkPolicy", "lambda-postgres", remove("/spec/egress/1", "ports"));
        notices(rule, "NetworkPolicy", "kafka-clients", remove("/spec/egress/0", "to"));
        let nodes = "/spec/ingress/0/from/0/ipBlock/cidr";
        notices(rule, "NetworkPolicy", "lambda-pgadmin", set(nodes, json!("0.0.0.0/0")));
    }
}
