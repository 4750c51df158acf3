//! The parts of the template that local runs carry out, resolved and typed.

use std::{collections::BTreeMap, time::Duration};

use serde::{Deserialize, de::DeserializeOwned};
use serde_json::{Value, json};

use super::{
    api::{Cors, not_honoured},
    intrinsics::{Deployment, ResolveError, Resolver, text},
    queue::{EventSource, Queue, QueueProperties, RuleProperties, SourceProperties},
    role::{PolicyProperties, Role, RoleProperties},
    stream::{StreamService, TaskProperties},
    yaml::{self, YamlError},
};

/// Why a template cannot be run locally.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StackError {
    /// The text is no YAML template.
    #[error("the template is unreadable")]
    Yaml(#[from] YamlError),
    /// Something in it has no local value.
    #[error("{place}")]
    Resolve {
        /// Where in the template.
        place: String,
        /// What is missing.
        source: ResolveError,
    },
    /// A definition that is not of the shape local runs know.
    #[error("{place}: {reason}")]
    Shape {
        /// Where in the template.
        place: String,
        /// What is wrong there.
        reason: String,
    },
}

/// The template for this machine.
#[derive(Debug, Clone)]
pub struct Stack {
    /// The HTTP API.
    pub api: Api,
    /// The functions by the name of their binary.
    pub functions: BTreeMap<String, Function>,
    /// The IAM roles.
    pub roles: Vec<Role>,
    /// The `DynamoDB` tables.
    pub tables: Vec<Table>,
    /// The SQS queues.
    pub queues: Vec<Queue>,
    /// Event rules, in the order of the template.
    pub rules: Vec<Rule>,
    /// Functions that are called with what is in a queue.
    pub sources: Vec<EventSource>,
    /// Schedules, in the order of the template.
    pub schedules: Vec<Schedule>,
    /// The streaming service, if there is to be one.
    pub stream: Option<StreamService>,
    /// What was asked for, and changes nothing here: a sentence each.
    pub not_honoured: Vec<String>,
}

/// An HTTP API.
#[derive(Debug, Clone)]
pub struct Api {
    /// Its routes.
    pub routes: Vec<Route>,
    /// Its JWT authorizers by name.
    pub authorizers: BTreeMap<String, Authorizer>,
    /// Who may call it from a browser's page of another origin; none: nobody.
    pub cors: Option<Cors>,
}

/// A route of an HTTP API.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Route {
    /// `GET`, …, or `ANY`.
    pub method: String,
    /// The path with its parameters, `/v1/config/{key+}`.
    pub path: String,
    /// The binary of the function that answers.
    pub function: String,
    /// The authorizer; none for a route that needs no token.
    pub authorizer: Option<String>,
    /// The scopes of which a token must have one; empty if any token will do.
    pub scopes: Vec<String>,
}

/// A JWT authorizer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Authorizer {
    /// The `iss` that tokens must have.
    pub issuer: String,
    /// The audiences of which tokens must have one.
    pub audience: Vec<String>,
}

/// A function.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Function {
    /// How long a call may take.
    pub timeout: Duration,
    /// The environment variables that the template sets.
    pub environment: BTreeMap<String, String>,
    /// The name of its role; none where SAM would make one up.
    pub role: Option<String>,
}

/// A `DynamoDB` table: its name, and its properties as `CloudFormation` spells them.
#[derive(Debug, Clone)]
pub struct Table {
    /// The table's name.
    pub name: String,
    /// Its `Properties`.
    pub properties: Value,
}

/// An `EventBridge` rule.
#[derive(Debug, Clone, PartialEq)]
pub struct Rule {
    /// Its name.
    pub name: String,
    /// The bus it listens on, `default` for the account's own.
    pub bus: String,
    /// Its event pattern.
    pub pattern: Value,
    /// Where events go that match.
    pub target: Target,
}

/// Where a rule's events go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// To the function with this binary.
    Function(String),
    /// Into the queue of this name.
    Queue(String),
}

/// A schedule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Schedule {
    /// Its name.
    pub name: String,
    /// The time between two calls.
    pub every: Duration,
    /// The binary of the function that is called.
    pub function: String,
}

impl Stack {
    /// Reads `template` for a machine as described by `deployment`.
    pub fn read(template: &str, deployment: &Deployment) -> Result<Self, StackError> {
        let template = yaml::parse(template)?;
        let resolver = Resolver::new(&template, deployment)
            .map_err(|source| StackError::Resolve { place: "Parameters".into(), source })?;
        let mut reader = Reader {
            resolver,
            globals: &template["Globals"],
            apis: BTreeMap::new(),
            stack: Self {
                api: Api { routes: Vec::new(), authorizers: BTreeMap::new(), cors: None },
                functions: BTreeMap::new(),
                roles: Vec::new(),
                tables: Vec::new(),
                queues: Vec::new(),
                rules: Vec::new(),
                sources: Vec::new(),
                schedules: Vec::new(),
                stream: None,
                not_honoured: Vec::new(),
            },
        };
        let resources =
            template["Resources"].as_object().ok_or_else(|| shape("Resources", "expected a map of resources"))?;
        let mut made = Vec::new();
        for (name, resource) in resources {
            let is_run = match kind(resource) {
                HTTP_API | FUNCTION | TABLE | ROLE | POLICY | QUEUE | TASK => true,
                RULE => resource["Properties"]["Targets"].is_array(),
                _ => false,
            };
            // Nobody asks whether something is there that is passed over: the parameters that
            // decide it have no effect then.
            if !(is_run || carries_traffic(kind(resource))) || !reader.is_made(name, resource)? {
                continue;
            }
            if !is_run {
                return Err(shape(name, format!("{} is not run locally", kind(resource))));
            }
            made.push((name, resource));
        }
        // The API, the roles and the queues first: routes take its default authorizer, policies add
        // to roles, and rules feed queues.
        for &(name, resource) in &made {
            match kind(resource) {
                HTTP_API => reader.api(name, resource)?,
                ROLE => reader.role(name, resource)?,
                QUEUE => reader.queue(name, resource)?,
                _ => {}
            }
        }
        for (name, resource) in made {
            match kind(resource) {
                FUNCTION => reader.function(name, resource)?,
                TABLE => reader.table(name, resource)?,
                POLICY => reader.policy(name, resource)?,
                RULE => reader.rule(name, resource)?,
                TASK => reader.task(name, resource)?,
                _ => {}
            }
        }
        let unread = reader.resolver.unread();
        let unread = unread.iter().map(|name| format!("the parameter {name} changes nothing that runs here"));
        reader.stack.not_honoured.extend(unread);
        Ok(reader.stack)
    }

    /// The rule or schedule targets and routes of all functions name functions that exist, by
    /// construction; this is the environment of one of them.
    pub fn function(&self, binary: &str) -> Result<&Function, StackError> {
        self.functions.get(binary).ok_or_else(|| shape(binary, "the template has no function with this binary"))
    }
}

/// The resource types that are run here.
const HTTP_API: &str = "AWS::Serverless::HttpApi";
const FUNCTION: &str = "AWS::Serverless::Function";
const TABLE: &str = "AWS::DynamoDB::Table";
const ROLE: &str = "AWS::IAM::Role";
const POLICY: &str = "AWS::IAM::Policy";
const QUEUE: &str = "AWS::SQS::Queue";
const RULE: &str = "AWS::Events::Rule";
const TASK: &str = "AWS::ECS::TaskDefinition";

/// How long a call may take where the template says nothing, in seconds.
const DEFAULT_TIMEOUT: u64 = 3;

/// Resource types that would bring requests or events to the suite by ways that local runs do not
/// have.
fn carries_traffic(kind: &str) -> bool {
    kind.starts_with("AWS::Serverless::")
        || matches!(
            kind,
            RULE | "AWS::Scheduler::Schedule"
                | "AWS::Lambda::Function"
                | "AWS::Lambda::EventSourceMapping"
                | "AWS::ApiGatewayV2::Route"
                | "AWS::DynamoDB::GlobalTable"
                | "AWS::Cognito::UserPool"
        )
}

struct Reader<'a> {
    resolver: Resolver<'a>,
    globals: &'a Value,
    // Default authorizer by the API's logical id.
    apis: BTreeMap<String, Option<String>>,
    stack: Stack,
}

impl Reader<'_> {
    fn typed<T: DeserializeOwned>(&self, place: &str, value: &Value) -> Result<T, StackError> {
        let resolved =
            self.resolver.resolve(value).map_err(|source| StackError::Resolve { place: place.to_owned(), source })?;
        serde_json::from_value(resolved).map_err(|error| shape(place, error.to_string()))
    }

    /// Whether the resource is there at all: its condition holds, or it has none.
    fn is_made(&self, name: &str, resource: &Value) -> Result<bool, StackError> {
        let Some(condition) = resource["Condition"].as_str() else { return Ok(true) };
        self.resolver
            .holds(condition)
            .map_err(|source| StackError::Resolve { place: format!("{name}.Condition"), source })
    }

    fn api(&mut self, name: &str, resource: &Value) -> Result<(), StackError> {
        #[derive(Deserialize, Default)]
        #[serde(rename_all = "PascalCase", default)]
        struct Auth {
            default_authorizer: Option<String>,
            authorizers: BTreeMap<String, AuthorizerDefinition>,
        }
        #[derive(Deserialize)]
        #[serde(rename_all = "PascalCase")]
        struct AuthorizerDefinition {
            identity_source: String,
            jwt_configuration: JwtConfiguration,
        }
        #[derive(Deserialize)]
        struct JwtConfiguration {
            issuer: String,
            audience: Vec<String>,
        }

        if !self.apis.is_empty() {
            return Err(shape(name, "a second HTTP API is not run locally"));
        }
        let place = format!("{name}.Properties.Auth");
        let auth: Option<Auth> = self.typed(&place, &resource["Properties"]["Auth"])?;
        let auth = auth.unwrap_or_default();
        for (authorizer, definition) in auth.authorizers {
            if definition.identity_source != "$request.header.Authorization" {
                return Err(shape(
                    &place,
                    format!("identity source {} is not read locally", definition.identity_source),
                ));
            }
            let JwtConfiguration { issuer, audience } = definition.jwt_configuration;
            self.stack.api.authorizers.insert(authorizer, Authorizer { issuer, audience });
        }
        let place = format!("{name}.Properties.CorsConfiguration");
        self.stack.api.cors = self.typed(&place, &resource["Properties"]["CorsConfiguration"])?;
        self.stack.not_honoured.extend(not_honoured(name, &resource["Properties"]));
        self.apis.insert(name.to_owned(), auth.default_authorizer);
        Ok(())
    }

    fn function(&mut self, name: &str, resource: &Value) -> Result<(), StackError> {
        let place = format!("{name}.Metadata.BuildProperties.Binary");
        let binary: String = self.typed(&place, &resource["Metadata"]["BuildProperties"]["Binary"])?;
        let mut environment = BTreeMap::new();
        for source in self.sources(resource, "Environment") {
            let place = format!("{name}.Properties.Environment.Variables");
            let variables: Option<BTreeMap<String, Value>> = self.typed(&place, &source["Variables"])?;
            for (variable, value) in variables.unwrap_or_default() {
                let value =
                    text(&value).ok_or_else(|| shape(&place, format!("{variable} is not a text but {value}")))?;
                environment.insert(variable, value);
            }
        }
        let mut timeout = DEFAULT_TIMEOUT;
        for source in self.sources(resource, "Timeout") {
            timeout = self.typed::<Option<u64>>(&format!("{name}.Properties.Timeout"), source)?.unwrap_or(timeout);
        }
        for (event, definition) in resource["Properties"]["Events"].as_object().into_iter().flatten() {
            self.event(name, &binary, event, definition)?;
        }
        if !resource["Properties"]["Policies"].is_null() {
            return Err(shape(name, "policies stand in a role of its own"));
        }
        let role = match resource["Properties"]["Role"]["Fn::GetAtt"][0].as_str() {
            Some(role) => Some(self.name_of(role)?),
            None => None,
        };
        let function = Function { timeout: Duration::from_secs(timeout), environment, role };
        if self.stack.functions.insert(binary.clone(), function).is_some() {
            return Err(shape(name, format!("a second function with the binary {binary}")));
        }
        Ok(())
    }

    fn role(&mut self, name: &str, resource: &Value) -> Result<(), StackError> {
        let properties: RoleProperties = self.typed(&format!("{name}.Properties"), &resource["Properties"])?;
        self.stack.roles.push(properties.named(self.name_of(name)?));
        Ok(())
    }

    fn policy(&mut self, name: &str, resource: &Value) -> Result<(), StackError> {
        let place = format!("{name}.Properties");
        let properties: PolicyProperties = self.typed(&place, &resource["Properties"])?;
        properties.attach(&mut self.stack.roles).map_err(|role| shape(place, format!("there is no role {role}")))
    }

    fn queue(&mut self, name: &str, resource: &Value) -> Result<(), StackError> {
        let place = format!("{name}.Properties");
        let properties: Option<QueueProperties> = self.typed(&place, &resource["Properties"])?;
        let own_name: String = self.typed(name, &json!({ "Fn::GetAtt": [name, "QueueName"] }))?;
        let queue = properties.unwrap_or_default().named(own_name);
        self.stack.queues.push(queue.ok_or_else(|| shape(place, "a FIFO queue is not run locally"))?);
        Ok(())
    }

    /// A rule of its own, which is no function's.
    fn rule(&mut self, name: &str, resource: &Value) -> Result<(), StackError> {
        let place = format!("{name}.Properties");
        let properties: RuleProperties = self.typed(&place, &resource["Properties"])?;
        let [target] = properties.targets.as_slice() else {
            return Err(shape(place, "a rule that has not one target is not run locally"));
        };
        let queue = target.arn.strip_prefix("arn:aws:sqs:").and_then(|arn| arn.rsplit(':').next());
        let queue = self.stack.queues.iter().find(|known| Some(known.name.as_str()) == queue);
        let queue = queue.ok_or_else(|| shape(place, format!("{} is no queue of the template", target.arn)))?;
        self.stack.rules.push(Rule {
            name: self.name_of(name)?,
            bus: properties.event_bus_name.unwrap_or_else(|| "default".into()),
            pattern: properties.event_pattern,
            target: Target::Queue(queue.name.clone()),
        });
        Ok(())
    }

    fn task(&mut self, name: &str, resource: &Value) -> Result<(), StackError> {
        let place = format!("{name}.Properties");
        let properties: TaskProperties = self.typed(&place, &resource["Properties"])?;
        let Ok([container]) = <[_; 1]>::try_from(properties.container_definitions) else {
            return Err(shape(place, "a task that has not one container is not run locally"));
        };
        let role = resource["Properties"]["TaskRoleArn"]["Fn::GetAtt"][0].as_str();
        let role = self.name_of(role.ok_or_else(|| shape(&place, "TaskRoleArn must be a role of the template"))?)?;
        let service = container.service(role);
        let service = service.map_err(|variable| shape(&place, format!("{variable} is given twice")))?;
        if self.stack.stream.replace(service).is_some() {
            return Err(shape(name, "a second task is not run locally"));
        }
        Ok(())
    }

    /// The name of a resource, as `!Ref` gives it.
    fn name_of(&self, logical_id: &str) -> Result<String, StackError> {
        let name = self.resolver.reference(logical_id);
        let name = name.map_err(|source| StackError::Resolve { place: logical_id.to_owned(), source })?;
        text(&name).ok_or_else(|| shape(logical_id, "its name is not a text"))
    }

    /// Where a property of a function may stand, the later before the earlier: in the globals, if
    /// it takes that one of them, and at the function itself.
    fn sources<'v>(&'v self, resource: &'v Value, property: &str) -> impl Iterator<Item = &'v Value> + use<'v> {
        let ignored = match &resource["IgnoreGlobals"] {
            Value::String(all) => all == "*",
            Value::Array(some) => some.iter().any(|one| one == property),
            _ => false,
        };
        let global = if ignored { &Value::Null } else { &self.globals["Function"][property] };
        [global, &resource["Properties"][property]].into_iter()
    }

    fn event(&mut self, function: &str, binary: &str, event: &str, definition: &Value) -> Result<(), StackError> {
        let place = format!("{function}.Properties.Events.{event}");
        let properties = &definition["Properties"];
        // SAM names the rules of a function this way.
        let name = format!("{function}{event}");
        match kind(definition) {
            "HttpApi" => {
                let route = self.route(&place, binary, properties)?;
                if self.stack.api.routes.iter().any(|other| other.method == route.method && other.path == route.path) {
                    return Err(shape(&place, format!("a second route {} {}", route.method, route.path)));
                }
                self.stack.api.routes.push(route);
            }
            "EventBridgeRule" | "CloudWatchEvent" => {
                let bus: Option<String> = self.typed(&place, &properties["EventBusName"])?;
                let pattern: Value = self.typed(&place, &properties["Pattern"])?;
                if !pattern.is_object() {
                    return Err(shape(&place, "expected a Pattern"));
                }
                let bus = bus.unwrap_or_else(|| "default".into());
                self.stack.rules.push(Rule { name, bus, pattern, target: Target::Function(binary.to_owned()) });
            }
            "SQS" => {
                let source: SourceProperties = self.typed(&place, properties)?;
                self.stack.sources.push(source.of(binary.to_owned()));
            }
            "Schedule" => {
                let expression: String = self.typed(&place, &properties["Schedule"])?;
                let every = rate(&expression)
                    .ok_or_else(|| shape(&place, format!("{expression} is not run locally, only rate(…)")))?;
                self.stack.schedules.push(Schedule { name, every, function: binary.to_owned() });
            }
            other => {
                return Err(shape(&place, format!("an event of type {other:?} is not run locally")));
            }
        }
        Ok(())
    }

    fn route(&self, place: &str, function: &str, properties: &Value) -> Result<Route, StackError> {
        #[derive(Deserialize)]
        #[serde(rename_all = "PascalCase")]
        struct Properties {
            method: String,
            path: String,
            #[serde(default)]
            auth: Auth,
        }
        #[derive(Deserialize, Default)]
        #[serde(rename_all = "PascalCase", default)]
        struct Auth {
            authorizer: Option<String>,
            authorization_scopes: Vec<String>,
        }

        let api = properties["ApiId"]["Ref"].as_str().unwrap_or_default();
        let default_authorizer =
            self.apis.get(api).ok_or_else(|| shape(place, "ApiId must refer to the template's HTTP API"))?;
        let without_api = {
            let mut properties = properties.clone();
            properties["ApiId"] = json!(null);
            properties
        };
        let Properties { method, path, auth } = self.typed(place, &without_api)?;
        if !path.starts_with('/') {
            return Err(shape(place, format!("the path {path} must begin with a slash")));
        }
        let authorizer = match auth.authorizer.as_deref() {
            // As SAM has it.
            Some("NONE") if default_authorizer.is_none() => {
                return Err(shape(place, "NONE means something only where the API has a default authorizer"));
            }
            Some("NONE") => None,
            Some(name) => Some(name.to_owned()),
            None => default_authorizer.clone(),
        };
        if let Some(name) = &authorizer
            && !self.stack.api.authorizers.contains_key(name)
        {
            return Err(shape(place, format!("the API has no authorizer {name}")));
        }
        if authorizer.is_none() && !auth.authorization_scopes.is_empty() {
            return Err(shape(place, "scopes without an authorizer would not be checked"));
        }
        Ok(Route {
            method: method.to_ascii_uppercase(),
            path,
            function: function.to_owned(),
            authorizer,
            scopes: auth.authorization_scopes,
        })
    }

    fn table(&mut self, name: &str, resource: &Value) -> Result<(), StackError> {
        let place = format!("{name}.Properties");
        let properties = self.typed(&place, &resource["Properties"])?;
        let name = self.name_of(name)?;
        self.stack.tables.push(Table { name, properties });
        Ok(())
    }
}

fn kind(definition: &Value) -> &str {
    definition["Type"].as_str().unwrap_or_default()
}

fn shape(place: impl Into<String>, reason: impl Into<String>) -> StackError {
    StackError::Shape { place: place.into(), reason: reason.into() }
}

/// The period of `rate(1 minute)`, `rate(5 hours)`, ….
fn rate(expression: &str) -> Option<Duration> {
    let (number, unit) = expression.strip_prefix("rate(")?.strip_suffix(')')?.split_once(' ')?;
    let number: u64 = number.parse().ok().filter(|&number| number > 0)?;
    let seconds = match unit {
        "minute" | "minutes" => 60,
        "hour" | "hours" => 3_600,
        "day" | "days" => 86_400,
        _ => return None,
    };
    Some(Duration::from_secs(number.checked_mul(seconds)?))
}
