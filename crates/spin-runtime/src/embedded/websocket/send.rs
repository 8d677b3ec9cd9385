//! `fermyon:spin/inbound-websocket-send`: sends frames to WebSockets.

use futures_util::FutureExt as _;
use wasmtime::{
    Result,
    component::{HasData, Linker, Resource},
};
use wasmtime_wasi::{
    ResourceTable, async_trait,
    p2::{DynPollable, Pollable, subscribe},
};

use super::{
    bindings::fermyon::spin::{inbound_websocket_send, websocket_types as wit},
    convert,
};
use crate::{
    embedded::guest::Guest,
    websocket::{ConnectionLost, Pending, WebSockets},
};

/// A frame on its way, and then the result of sending it.
pub struct SendingFrame {
    sending: Option<Pending<'static, Result<(), ConnectionLost>>>,
    result: Option<Result<(), ConnectionLost>>,
    was_returned: bool,
}

/// Adds the interface, and the one of its types, to a linker.
pub(super) fn add_to_linker(linker: &mut Linker<Guest>) -> Result<()> {
    wit::add_to_linker::<_, Frames>(linker, view)?;
    inbound_websocket_send::add_to_linker::<_, Frames>(linker, view)
}

fn view(guest: &mut Guest) -> View<'_> {
    View {
        websockets: &*guest.component.websockets,
        table: &mut guest.table,
    }
}

/// The part of a [`Guest`] that the interface accesses.
pub(super) struct View<'a> {
    websockets: &'a dyn WebSockets,
    table: &'a mut ResourceTable,
}

/// Tells Wasmtime the type of the [`View`].
struct Frames;

impl HasData for Frames {
    type Data<'a> = View<'a>;
}

impl inbound_websocket_send::Host for View<'_> {
    async fn send_frame(
        &mut self,
        token: String,
        frame: wit::Frame,
    ) -> Result<Resource<SendingFrame>> {
        let frame = convert::from_guest(frame);
        let sending = self.websockets.send(token, frame).await;
        let frame = SendingFrame {
            sending: Some(sending),
            result: None,
            was_returned: false,
        };
        Ok(self.table.push(frame)?)
    }
}

impl wit::Host for View<'_> {}

impl wit::HostFutureSendFrame for View<'_> {
    async fn subscribe(&mut self, frame: Resource<SendingFrame>) -> Result<Resource<DynPollable>> {
        subscribe(self.table, frame)
    }

    async fn get(
        &mut self,
        frame: Resource<SendingFrame>,
    ) -> Result<Option<Result<Result<(), wit::ErrorCode>, ()>>> {
        let frame = self.table.get_mut(&frame)?;
        if let Some(sending) = &mut frame.sending
            && let Some(result) = sending.now_or_never()
        {
            frame.sent(result);
        }
        let Some(result) = frame.result else {
            return Ok(None);
        };
        if std::mem::replace(&mut frame.was_returned, true) {
            return Ok(Some(Err(())));
        }
        let result = result.map_err(|ConnectionLost| wit::ErrorCode::ConnectionLost);
        Ok(Some(Ok(result)))
    }

    async fn drop(&mut self, frame: Resource<SendingFrame>) -> Result<()> {
        self.table.delete(frame)?;
        Ok(())
    }
}

impl SendingFrame {
    fn sent(&mut self, result: Result<(), ConnectionLost>) {
        self.sending = None;
        self.result = Some(result);
    }
}

#[async_trait]
impl Pollable for SendingFrame {
    async fn ready(&mut self) {
        if let Some(sending) = &mut self.sending {
            let result = sending.await;
            self.sent(result);
        }
    }
}
