//! What `CloudFormation` leaves out because its condition does not hold is referred to by nothing
//! that is there. Held for all resources and outputs of the template, also those that local runs
//! pass over.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value};

use super::{TEMPLATE, intrinsics::intrinsic, yaml};

/// The conditions under which something is there or used, each with what it has to be.
type Guards = Vec<(String, bool)>;

/// A use of one resource by another.
struct Reference {
    from: String,
    to: String,
    guards: Guards,
}

/// All references of `template` to its own resources.
fn references(template: &Value) -> Vec<Reference> {
    let resources = template["Resources"].as_object().expect("resources");
    let is_resource = |name: &str| resources.contains_key(name);
    let mut found = Vec::new();
    let mut note = |from: &str, value: &Value, guards: &Guards| {
        walk(value, guards, &mut |to, guards| {
            if is_resource(to) {
                found.push(Reference { from: from.to_owned(), to: to.to_owned(), guards: guards.clone() });
            }
        });
    };
    note("Globals", &template["Globals"], &Guards::new());
    for section in ["Resources", "Outputs"] {
        for (name, definition) in template[section].as_object().into_iter().flatten() {
            let own = definition["Condition"].as_str().map(|condition| (condition.to_owned(), true));
            let own = Guards::from_iter(own);
            note(name, definition, &own);
            let named = match &definition["DependsOn"] {
                Value::Array(several) => several.as_slice(),
                one => std::slice::from_ref(one),
            };
            for to in named.iter().filter_map(Value::as_str) {
                note(name, &serde_json::json!({ "Ref": to }), &own);
            }
        }
    }
    found
}

/// Hands over each name that `value` refers to, with the branches of `Fn::If` that it stands in.
fn walk(value: &Value, guards: &Guards, found: &mut dyn FnMut(&str, &Guards)) {
    match value {
        Value::Array(items) => items.iter().for_each(|item| walk(item, guards, found)),
        Value::Object(object) => match intrinsic(object) {
            Some(("Ref", Value::String(name))) => found(name, guards),
            Some(("Fn::GetAtt", Value::Array(path))) => found(path[0].as_str().expect("a name"), guards),
            Some(("Fn::Sub", Value::String(text))) => substituted(text, &Map::new(), guards, found),
            Some(("Fn::Sub", Value::Array(parts))) => {
                let own = parts[1].as_object().expect("names of its own");
                substituted(parts[0].as_str().expect("a text"), own, guards, found);
                walk(&parts[1], guards, found);
            }
            Some(("Fn::If", Value::Array(parts))) => {
                let condition = parts[0].as_str().expect("a condition");
                for (branch, holds) in [(&parts[1], true), (&parts[2], false)] {
                    let guards = guards.iter().cloned().chain([(condition.to_owned(), holds)]).collect();
                    walk(branch, &guards, found);
                }
            }
            _ => object.values().for_each(|member| walk(member, guards, found)),
        },
        _ => {}
    }
}

fn substituted(text: &str, own: &Map<String, Value>, guards: &Guards, found: &mut dyn FnMut(&str, &Guards)) {
    for name in text.split("${").skip(1).filter_map(|rest| rest.split('}').next()) {
        let name = name.split('.').next().unwrap_or_default();
        if !own.contains_key(name) {
            found(name, guards);
        }
    }
}

/// What the conditions rest on in the end: comparisons, of which each may turn out either way.
fn comparisons(template: &Value, expression: &Value, found: &mut BTreeSet<String>) {
    match intrinsic(expression.as_object().expect("an expression")).expect("a function") {
        ("Condition", Value::String(name)) => comparisons(template, &template["Conditions"][name], found),
        ("Fn::Equals", _) => drop(found.insert(expression.to_string())),
        (_, operands) => {
            operands.as_array().expect("operands").iter().for_each(|operand| comparisons(template, operand, found));
        }
    }
}

fn holds(template: &Value, expression: &Value, outcomes: &BTreeMap<&String, bool>) -> bool {
    let each = |operands: &Value| operands.as_array().expect("operands").clone();
    match intrinsic(expression.as_object().expect("an expression")).expect("a function") {
        ("Condition", Value::String(name)) => holds(template, &template["Conditions"][name], outcomes),
        ("Fn::Equals", _) => outcomes[&expression.to_string()],
        ("Fn::Not", operands) => !holds(template, &operands[0], outcomes),
        ("Fn::And", operands) => each(operands).iter().all(|one| holds(template, one, outcomes)),
        ("Fn::Or", operands) => each(operands).iter().any(|one| holds(template, one, outcomes)),
        (other, _) => panic!("{other} is no condition's"),
    }
}

/// The references to what may be missing while they are there.
fn dangling(template: &Value) -> BTreeSet<String> {
    let conditions = &template["Conditions"];
    let may_dangle = |reference: &Reference| {
        let Some(needed) = template["Resources"][&reference.to]["Condition"].as_str() else { return false };
        let mut open = BTreeSet::new();
        for name in reference.guards.iter().map(|(name, _)| name.as_str()).chain([needed]) {
            comparisons(template, &conditions[name], &mut open);
        }
        (0..1_usize << open.len()).any(|bits| {
            let outcomes = open.iter().enumerate().map(|(place, one)| (one, bits >> place & 1 == 1)).collect();
            let holds = |name: &str| holds(template, &conditions[name], &outcomes);
            reference.guards.iter().all(|(name, expected)| holds(name) == *expected) && !holds(needed)
        })
    };
    let found = references(template);
    found.iter().filter(|one| may_dangle(one)).map(|one| format!("{} -> {}", one.from, one.to)).collect()
}

/// Promise: whatever the parameters are, no resource and no output needs a resource that its
/// condition leaves out. `CloudFormation` makes nothing that depends on one.
#[test]
fn nothing_needs_what_may_be_missing() {
    let template = yaml::parse(TEMPLATE).unwrap();
    assert!(references(&template).len() > 150, "{}", references(&template).len());
    assert_eq!(dangling(&template), BTreeSet::new());
}

/// Promise: the check above sees every way of referring, and takes conditions as `CloudFormation`
/// does.
#[test]
fn what_may_be_missing_is_found() {
    let rest = "
Conditions:
  On: !Equals [!Ref Flag, 'yes']
  Off: !Equals [!Ref Flag, 'no']
  More: !And [!Condition On, !Equals [!Ref Other, 'yes']]
  Not: !Not [!Condition On]
Resources:
  There: {Type: T}
  Maybe: {Type: T, Condition: On}
  Seldom: {Type: T, Condition: More}
  Else: {Type: T, Condition: 'Not'}
";
    for (resource, expected) in [
        ("{DependsOn: There}", None),
        ("{DependsOn: Maybe}", Some("Maybe")),
        ("{DependsOn: [There, Maybe]}", Some("Maybe")),
        ("{Condition: On, DependsOn: Maybe}", None),
        ("{Condition: On, DependsOn: Seldom}", Some("Seldom")),
        ("{Condition: More, DependsOn: [Maybe, Seldom]}", None),
        ("{Condition: Off, DependsOn: Else}", Some("Else")),
        ("{Condition: 'Not', DependsOn: Else}", None),
        ("{Properties: {A: [!Ref Maybe]}}", Some("Maybe")),
        ("{Properties: {A: !GetAtt Maybe.Arn}}", Some("Maybe")),
        ("{Properties: {A: !Sub 'x${Maybe.Arn}'}}", Some("Maybe")),
        ("{Properties: {A: !Sub ['${Maybe}', {Maybe: 1}]}}", None),
        ("{Properties: {A: !Sub ['${a}', {a: !Ref Maybe}]}}", Some("Maybe")),
        ("{Properties: {A: !If [On, !Ref Maybe, !Ref Else]}}", None),
        ("{Properties: {A: !If [On, !Ref There, !Ref Maybe]}}", Some("Maybe")),
        ("{Properties: {A: !If [On, !Ref Seldom, 1]}}", Some("Seldom")),
    ] {
        let template = yaml::parse(&format!("{rest}  Here: {resource}\n")).unwrap();
        let expected = expected.map(|to| format!("Here -> {to}"));
        assert_eq!(dangling(&template), BTreeSet::from_iter(expected), "{resource}");
    }
}
