//! The template's table, made where it is missing.

use aws_sdk_dynamodb::{
    Client,
    error::{BuildError, DisplayErrorContext, SdkError},
    operation::{create_table::CreateTableInput, describe_table::DescribeTableError},
    types::{
        AttributeDefinition, BillingMode, GlobalSecondaryIndex, KeySchemaElement, KeyType, Projection, ProjectionType,
        ScalarAttributeType, TableDescription, TimeToLiveSpecification, TimeToLiveStatus,
    },
};
use serde::Deserialize;

use crate::template::Table;

/// A table that cannot be made or used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TableError {
    /// The template's definition is not of the shape local runs know.
    #[error("the definition of the table {0} cannot be carried out locally")]
    Definition(String, #[source] serde_json::Error),
    /// The definition lacks something that `DynamoDB` asks for.
    #[error("the definition of the table {0} is incomplete")]
    Incomplete(String, #[source] BuildError),
    /// The data folder holds a table of another shape.
    #[error(
        "the table {0} in the data folder has other keys or indexes than the template; \
         start on another folder (--data), or remove this one"
    )]
    Differs(String),
    /// `DynamoDB` refused.
    #[error("{operation} on the table {table} failed: {reason}")]
    Refused {
        /// The table.
        table: String,
        /// The operation.
        operation: &'static str,
        /// What the service said.
        reason: String,
    },
}

/// The properties that have an effect locally. Capacity, encryption and recovery have none; streams
/// and local indexes would have one, so that a template that asks for them is refused.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Definition {
    attribute_definitions: Vec<Attribute>,
    key_schema: Vec<Key>,
    #[serde(default)]
    global_secondary_indexes: Vec<Index>,
    time_to_live_specification: Option<TimeToLive>,
    #[serde(default, deserialize_with = "absent", rename = "StreamSpecification")]
    _stream: (),
    #[serde(default, deserialize_with = "absent", rename = "LocalSecondaryIndexes")]
    _local_indexes: (),
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Attribute {
    attribute_name: String,
    attribute_type: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Key {
    attribute_name: String,
    key_type: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Index {
    #[serde(rename = "IndexName")]
    name: String,
    key_schema: Vec<Key>,
    projection: IndexProjection,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct IndexProjection {
    projection_type: String,
    non_key_attributes: Option<Vec<String>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct TimeToLive {
    attribute_name: String,
    enabled: bool,
}

fn absent<'de, D: serde::Deserializer<'de>>(_: D) -> Result<(), D::Error> {
    Err(serde::de::Error::custom("streams and local secondary indexes are not run locally"))
}

/// Makes the table if it is not there, and sees to it that items expire.
pub async fn ensure(client: &Client, table: &Table) -> Result<(), TableError> {
    let name = &table.name;
    let definition: Definition = serde_json::from_value(table.properties.clone())
        .map_err(|error| TableError::Definition(name.clone(), error))?;
    let wanted = input(name, &definition).map_err(|error| TableError::Incomplete(name.clone(), error))?;
    match client.describe_table().table_name(name).send().await {
        Ok(described) => {
            if !described.table().is_some_and(|found| same_shape(found, &wanted)) {
                return Err(TableError::Differs(name.clone()));
            }
        }
        Err(error) if error.as_service_error().is_some_and(DescribeTableError::is_resource_not_found_exception) => {
            create(client, wanted).await.map_err(|error| refused(name, "CreateTable", error))?;
        }
        Err(error) => return Err(refused(name, "DescribeTable", error)),
    }
    match definition.time_to_live_specification {
        Some(expiry) if expiry.enabled => expire(client, name, expiry.attribute_name).await,
        _ => Ok(()),
    }
}

async fn create(
    client: &Client,
    input: CreateTableInput,
) -> Result<(), SdkError<aws_sdk_dynamodb::operation::create_table::CreateTableError>> {
    client
        .create_table()
        .set_table_name(input.table_name)
        .set_attribute_definitions(input.attribute_definitions)
        .set_key_schema(input.key_schema)
        .set_global_secondary_indexes(input.global_secondary_indexes)
        .set_billing_mode(input.billing_mode)
        .send()
        .await?;
    Ok(())
}

async fn expire(client: &Client, name: &str, attribute: String) -> Result<(), TableError> {
    let described = client
        .describe_time_to_live()
        .table_name(name)
        .send()
        .await
        .map_err(|error| refused(name, "DescribeTimeToLive", error))?;
    let on = described.time_to_live_description().is_some_and(|found| {
        found.attribute_name() == Some(&attribute)
            && matches!(found.time_to_live_status(), Some(TimeToLiveStatus::Enabled | TimeToLiveStatus::Enabling))
    });
    if on {
        return Ok(());
    }
    let specification = TimeToLiveSpecification::builder()
        .attribute_name(attribute)
        .enabled(true)
        .build()
        .map_err(|error| TableError::Incomplete(name.to_owned(), error))?;
    client
        .update_time_to_live()
        .table_name(name)
        .time_to_live_specification(specification)
        .send()
        .await
        .map_err(|error| refused(name, "UpdateTimeToLive", error))?;
    Ok(())
}

fn input(name: &str, definition: &Definition) -> Result<CreateTableInput, BuildError> {
    let attributes = definition.attribute_definitions.iter().map(|attribute| {
        AttributeDefinition::builder()
            .attribute_name(&attribute.attribute_name)
            .attribute_type(ScalarAttributeType::from(attribute.attribute_type.as_str()))
            .build()
    });
    let indexes = definition.global_secondary_indexes.iter().map(|index| {
        let projection = Projection::builder()
            .projection_type(ProjectionType::from(index.projection.projection_type.as_str()))
            .set_non_key_attributes(index.projection.non_key_attributes.clone())
            .build();
        GlobalSecondaryIndex::builder()
            .index_name(&index.name)
            .set_key_schema(Some(keys(&index.key_schema)?))
            .projection(projection)
            .build()
    });
    let indexes: Vec<_> = indexes.collect::<Result<_, _>>()?;
    CreateTableInput::builder()
        .table_name(name)
        .set_attribute_definitions(Some(attributes.collect::<Result<_, _>>()?))
        .set_key_schema(Some(keys(&definition.key_schema)?))
        .set_global_secondary_indexes((!indexes.is_empty()).then_some(indexes))
        .billing_mode(BillingMode::PayPerRequest)
        .build()
}

fn keys(schema: &[Key]) -> Result<Vec<KeySchemaElement>, BuildError> {
    let keys = schema.iter().map(|key| {
        KeySchemaElement::builder()
            .attribute_name(&key.attribute_name)
            .key_type(KeyType::from(key.key_type.as_str()))
            .build()
    });
    keys.collect()
}

fn same_shape(found: &TableDescription, wanted: &CreateTableInput) -> bool {
    let mut found_indexes: Vec<_> = found
        .global_secondary_indexes()
        .iter()
        .map(|index| (index.index_name().unwrap_or_default(), index.key_schema()))
        .collect();
    let mut wanted_indexes: Vec<_> =
        wanted.global_secondary_indexes().iter().map(|index| (index.index_name(), index.key_schema())).collect();
    found_indexes.sort_by_key(|(name, _)| *name);
    wanted_indexes.sort_by_key(|(name, _)| *name);
    found.key_schema() == wanted.key_schema() && found_indexes == wanted_indexes
}

fn refused<E>(table: &str, operation: &'static str, error: SdkError<E>) -> TableError
where
    SdkError<E>: std::error::Error,
{
    TableError::Refused { table: table.to_owned(), operation, reason: DisplayErrorContext(&error).to_string() }
}
