//! What an instance may use: WASI, and Wasmtime's interfaces for configuration and stores.

use std::net::SocketAddr;

use http::{Request, Response, Uri, uri::Authority};
use http_body_util::BodyExt as _;
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use tests::workspace;
use wasmtime::component::{Linker, ResourceTable};
use wasmtime_wasi::{FsPerms, WasiCtx, WasiCtxView, WasiView};
use wasmtime_wasi_config::{WasiConfig, WasiConfigVariables};
use wasmtime_wasi_http::{
    Error, RequestOptions, WasiBody, WasiHttpCtx, WasiHttpCtxView, WasiHttpHooks, WasiHttpView,
};
use wasmtime_wasi_keyvalue::{WasiKeyValue, WasiKeyValueCtx, WasiKeyValueCtxBuilder};

/// The host name by which the page calls the order service.
const ORDERS: &str = "orders.spin.internal";

/// The data of an instance.
pub struct Data {
    table: ResourceTable,
    wasi: WasiCtx,
    http: WasiHttpCtx,
    outgoing: Outgoing,
    config: WasiConfigVariables,
    key_value: WasiKeyValueCtx,
}

impl Data {
    /// Creates the data of an instance on a platform with this address and configuration.
    pub fn new(platform: SocketAddr, config: &[(String, String)]) -> wasmtime::Result<Self> {
        let mut wasi = WasiCtx::builder();
        wasi.inherit_stderr();
        for (folder, path) in [("static", "/static"), ("client/src", "/client")] {
            wasi.preopened_dir(workspace().join(folder), path, FsPerms::ReadOnly)?;
        }
        Ok(Self {
            table: ResourceTable::new(),
            wasi: wasi.build(),
            http: WasiHttpCtx::new(),
            outgoing: Outgoing {
                client: Client::builder(TokioExecutor::new()).build_http(),
                platform,
            },
            config: config.iter().cloned().collect(),
            key_value: WasiKeyValueCtxBuilder::new().build(),
        })
    }
}

impl WasiView for Data {
    fn ctx(&mut self) -> WasiCtxView<'_> {
        WasiCtxView {
            ctx: &mut self.wasi,
            table: &mut self.table,
        }
    }
}

impl WasiHttpView for Data {
    fn http(&mut self) -> WasiHttpCtxView<'_> {
        WasiHttpCtxView {
            ctx: &mut self.http,
            table: &mut self.table,
            hooks: &mut self.outgoing,
        }
    }
}

/// Sends the requests of an instance.
struct Outgoing {
    client: Client<HttpConnector, WasiBody>,
    platform: SocketAddr,
}

type PendingResponse = Box<
    dyn Future<
            Output = Result<
                (
                    Response<WasiBody>,
                    Box<dyn Future<Output = Result<(), Error>> + Send>,
                ),
                Error,
            >,
        > + Send,
>;

impl WasiHttpHooks for Outgoing {
    fn send_request(
        &mut self,
        mut request: Request<WasiBody>,
        _: Option<RequestOptions>,
        _: Box<dyn Future<Output = Result<(), Error>> + Send>,
    ) -> PendingResponse {
        let (client, platform) = (self.client.clone(), self.platform);
        Box::new(async move {
            if request.uri().host() == Some(ORDERS) {
                let uri = with_authority(request.uri(), platform);
                *request.uri_mut() = uri.ok_or(Error::HttpRequestUriInvalid)?;
            }
            let response = client.request(request).await;
            let response = response.map_err(|_| Error::ConnectionRefused)?;
            let response = response.map(|body| body.map_err(Error::from).boxed_unsync());
            let no_later_error: Box<dyn Future<Output = _> + Send> = Box::new(async { Ok(()) });
            Ok((response, no_later_error))
        })
    }
}

/// Returns the same URI of another server.
fn with_authority(uri: &Uri, server: SocketAddr) -> Option<Uri> {
    let mut parts = uri.clone().into_parts();
    parts.authority = Some(Authority::try_from(server.to_string()).ok()?);
    Uri::from_parts(parts).ok()
}

/// Adds the interfaces that `wasmtime serve -S cli,config,keyvalue` adds.
pub fn add_to_linker(linker: &mut Linker<Data>) -> wasmtime::Result<()> {
    wasmtime_wasi::p2::add_to_linker_async(linker)?;
    wasmtime_wasi::p3::add_to_linker(linker)?;
    wasmtime_wasi_http::p3::add_to_linker(linker)?;
    wasmtime_wasi_config::add_to_linker(linker, |data| WasiConfig::from(&data.config))?;
    wasmtime_wasi_keyvalue::add_to_linker(linker, |data: &mut Data| {
        WasiKeyValue::new(&data.key_value, &mut data.table)
    })
}
