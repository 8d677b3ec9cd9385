//! The test component for the SDKs of WASI 0.3, with one path for each interface.

use anyhow::Result;
use spin_sdk::{
    http::{EmptyBody, Request, Response, body::IncomingBodyExt as _},
    http_service,
    key_value::Store,
    pg, sqlite, variables,
};

#[http_service]
async fn handle(request: Request) -> Response<String> {
    let (status, body) = match route(request).await {
        Ok(Some(body)) => (200, body),
        Ok(None) => (404, String::new()),
        Err(error) => (502, format!("{error:?}")),
    };
    let mut response = Response::new(body);
    *response.status_mut() = status.try_into().unwrap();
    response
}

async fn route(request: Request) -> Result<Option<String>> {
    let path = request.uri().path().to_owned();
    let action = path.rsplit('/').next().unwrap_or_default();
    Ok(Some(match action {
        "hello" => "hello".into(),
        "echo" => String::from_utf8(request.into_body().bytes().await?.to_vec())?,
        "header" => request
            .headers()
            .get("spin-path-info")
            .map_or("none".into(), |value| {
                String::from_utf8_lossy(value.as_bytes()).into_owned()
            }),
        "print" => {
            println!("printed by the component");
            "printed".into()
        }
        "trap" => panic!("trap"),
        "variable" => variables::get("greeting").await?,
        "variable-unknown" => variables::get("unknown").await?,
        "count" => {
            let store = Store::open_default().await?;
            let count = store.get("count").await?.unwrap_or_default();
            let count: u32 = String::from_utf8(count)?.parse().unwrap_or(0);
            store
                .set("count", (count + 1).to_string().as_bytes())
                .await?;
            (count + 1).to_string()
        }
        "keys" => Store::open_default()
            .await?
            .get_keys()
            .await
            .collect()
            .await?
            .join(","),
        "store-denied" => Store::open("private").await.map(|_| "opened".into())?,
        "query" => {
            let database = sqlite::Connection::open_default().await?;
            database
                .execute("CREATE TABLE IF NOT EXISTS seen (name TEXT)", [])
                .await?
                .result()
                .await?;
            let name = [sqlite::Value::Text("a guest".into())];
            database
                .execute("INSERT INTO seen VALUES (?)", name)
                .await?
                .result()
                .await?;
            let result = database
                .execute("SELECT name, 7, NULL FROM seen LIMIT 1", [])
                .await?;
            let columns = result.columns().len();
            let rows = result.collect().await?;
            format!("{columns:?} {:?}", rows[0].get::<&str>(0))
        }
        "database-denied" => sqlite::Connection::open("private")
            .await
            .map(|_| "opened".into())?,
        "fetch" => {
            let url = request.uri().query().unwrap_or_default();
            let outgoing = Request::get(url).body(EmptyBody::new())?;
            let response = spin_sdk::http::send(outgoing).await?;
            String::from_utf8(response.into_body().bytes().await?.to_vec())?
        }
        "postgres" => pg::Connection::open("host=127.0.0.1")
            .await
            .map(|_| "opened".into())?,
        _ => return Ok(None),
    }))
}
