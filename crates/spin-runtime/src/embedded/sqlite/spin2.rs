//! `fermyon:spin/sqlite@2`.

use rusqlite::types::Value;
use wasmtime::{Result, component::Resource};

use super::{OpenConnection, OpenError, View, query::QueryError, v2};

impl From<OpenError> for v2::Error {
    fn from(error: OpenError) -> Self {
        error.into_message().map_or(Self::AccessDenied, Self::Io)
    }
}

impl From<QueryError> for v2::Error {
    fn from(error: QueryError) -> Self {
        Self::Io(error.0)
    }
}

impl From<v2::Value> for Value {
    fn from(value: v2::Value) -> Self {
        match value {
            v2::Value::Integer(number) => Self::Integer(number),
            v2::Value::Real(number) => Self::Real(number),
            v2::Value::Text(text) => Self::Text(text),
            v2::Value::Blob(bytes) => Self::Blob(bytes),
            v2::Value::Null => Self::Null,
        }
    }
}

impl From<Value> for v2::Value {
    fn from(value: Value) -> Self {
        match value {
            Value::Integer(number) => Self::Integer(number),
            Value::Real(number) => Self::Real(number),
            Value::Text(text) => Self::Text(text),
            Value::Blob(bytes) => Self::Blob(bytes),
            Value::Null => Self::Null,
        }
    }
}

impl v2::Host for View<'_> {}

impl v2::HostConnection for View<'_> {
    async fn open(
        &mut self,
        database: String,
    ) -> Result<Result<Resource<OpenConnection>, v2::Error>> {
        Ok(self.open(&database)?.map_err(Into::into))
    }

    async fn execute(
        &mut self,
        connection: Resource<OpenConnection>,
        statement: String,
        parameters: Vec<v2::Value>,
    ) -> Result<Result<v2::QueryResult, v2::Error>> {
        let connection = self.connection(&connection)?;
        let parameters = parameters.into_iter().map(Into::into).collect();
        let result = connection.query(statement, parameters).await;
        Ok(result
            .map(|result| v2::QueryResult {
                columns: result.columns,
                rows: result
                    .rows
                    .into_iter()
                    .map(|row| v2::RowResult {
                        values: row.into_iter().map(Into::into).collect(),
                    })
                    .collect(),
            })
            .map_err(Into::into))
    }

    async fn drop(&mut self, connection: Resource<OpenConnection>) -> Result<()> {
        self.close(connection)
    }
}
