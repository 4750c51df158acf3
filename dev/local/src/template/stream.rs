//! The streaming service as the template has it: its container's settings and its role. The load
//! balancer, networks and the service's numbers have no local counterpart.

use std::collections::BTreeMap;

use serde::Deserialize;

/// The streaming service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StreamService {
    /// The environment variables that the template sets.
    pub environment: BTreeMap<String, String>,
    /// Environment variables whose values ECS would take from elsewhere, with the ARN of where.
    pub secrets: BTreeMap<String, String>,
    /// The name of the task's role.
    pub role: String,
}

/// `AWS::ECS::TaskDefinition`: its properties that mean something here. The role is read from the
/// template itself, by its name there.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct TaskProperties {
    pub(super) container_definitions: Vec<Container>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Container {
    #[serde(default)]
    environment: Vec<Variable>,
    #[serde(default)]
    secrets: Vec<Secret>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
struct Variable {
    name: String,
    value: String,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
struct Secret {
    name: String,
    value_from: String,
}

impl Container {
    /// The service in this container. The error is a variable that is given twice.
    pub(super) fn service(self, role: String) -> Result<StreamService, String> {
        let mut service = StreamService { environment: BTreeMap::new(), secrets: BTreeMap::new(), role };
        for Variable { name, value } in self.environment {
            if service.environment.insert(name.clone(), value).is_some() {
                return Err(name);
            }
        }
        for Secret { name, value_from } in self.secrets {
            let is_set = service.environment.contains_key(&name);
            if is_set || service.secrets.insert(name.clone(), value_from).is_some() {
                return Err(name);
            }
        }
        Ok(service)
    }
}
