//! The test component for the SDKs of WASI 0.2, with one path for each interface.

use anyhow::Result;
use spin_sdk::{
    http::{Method, Request, Response},
    http_component,
    key_value::Store,
    pg, sqlite, variables,
};

#[http_component]
async fn handle(request: Request) -> Response {
    match route(&request).await {
        Ok(Some(body)) => Response::new(200, body),
        Ok(None) => Response::new(404, ""),
        Err(error) => Response::new(502, format!("{error:?}")),
    }
}

async fn route(request: &Request) -> Result<Option<String>> {
    let action = request.path().rsplit('/').next().unwrap_or_default();
    Ok(Some(match action {
        "hello" => "hello".into(),
        "echo" => String::from_utf8(request.body().to_vec())?,
        "header" => request
            .header("spin-path-info")
            .map_or("none".into(), |value| {
                String::from_utf8_lossy(value.as_bytes()).into_owned()
            }),
        "print" => {
            println!("printed by the component");
            "printed".into()
        }
        "trap" => panic!("trap"),
        "variable" => variables::get("greeting")?,
        "variable-unknown" => variables::get("unknown")?,
        "count" => {
            let store = Store::open_default()?;
            let count = store.get("count")?.unwrap_or_default();
            let count: u32 = String::from_utf8(count)?.parse().unwrap_or(0);
            store.set("count", (count + 1).to_string().as_bytes())?;
            (count + 1).to_string()
        }
        "keys" => Store::open_default()?.get_keys()?.join(","),
        "store-denied" => Store::open("private").map(|_| "opened".into())?,
        "query" => {
            let database = sqlite::Connection::open_default()?;
            database.execute("CREATE TABLE IF NOT EXISTS seen (name TEXT)", &[])?;
            let name = sqlite::Value::Text("a guest".into());
            database.execute("INSERT INTO seen VALUES (?)", &[name])?;
            let result = database.execute("SELECT name, 7, NULL FROM seen LIMIT 1", &[])?;
            format!(
                "{:?} {:?}",
                result.columns.len(),
                result.rows[0].get::<&str>(0)
            )
        }
        "database-denied" => sqlite::Connection::open("private").map(|_| "opened".into())?,
        "fetch" => {
            let outgoing = Request::builder()
                .method(Method::Get)
                .uri(request.query())
                .build();
            let response: Response = spin_sdk::http::send(outgoing).await?;
            String::from_utf8(response.into_body())?
        }
        "postgres" => pg::Connection::open("host=127.0.0.1").map(|_| "opened".into())?,
        _ => return Ok(None),
    }))
}
