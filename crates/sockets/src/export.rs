//! The macro that makes a handler the entry point of a component.

/// Makes a [`Handler`](crate::Handler) the handler of the component's requests.
///
/// The argument is an expression, which is evaluated in each call. A component has one handler.
///
/// ```
/// use sockets::Handler;
///
/// struct Chat;
///
/// impl Handler for Chat {}
///
/// sockets::export!(Chat);
/// # fn main() {}
/// ```
#[macro_export]
macro_rules! export {
    ($handler:expr $(,)?) => {
        #[cfg(not(target_family = "wasm"))]
        const _: fn() = || {
            fn check<H: $crate::Handler>(_: H) {}
            check($handler);
        };

        #[cfg(target_family = "wasm")]
        const _: () = {
            struct Component;

            $crate::__private::wasip3::http::service::export!(Component);

            impl $crate::__private::wasip3::exports::http::handler::Guest for Component {
                async fn handle(
                    request: $crate::__private::wasip3::http::types::Request,
                ) -> ::core::result::Result<
                    $crate::__private::wasip3::http::types::Response,
                    $crate::__private::wasip3::http::types::ErrorCode,
                > {
                    $crate::__private::handle(::core::env!("CARGO_PKG_NAME"), &$handler, request)
                        .await
                }
            }

            $crate::__export_typed_frames!(Component, $handler);
        };
    };
}

/// Exports the handler of typed frames.
#[doc(hidden)]
#[cfg(feature = "sip-016")]
#[macro_export]
macro_rules! __export_typed_frames {
    ($component:ident, $handler:expr) => {
        $crate::__private::bindings::export_websocket_handler!(
            $component with_types_in $crate::__private::bindings
        );

        impl $crate::__private::bindings::exports::fermyon::spin::inbound_websocket_receive::Guest
            for $component
        {
            fn handle_new(
                token: ::std::string::String,
                request: $crate::__private::bindings::wasi::http::types::IncomingRequest,
                response_out: $crate::__private::bindings::wasi::http::types::ResponseOutparam,
            ) {
                $crate::__private::handle_new(
                    ::core::env!("CARGO_PKG_NAME"),
                    &$handler,
                    token,
                    request,
                    response_out,
                );
            }

            fn handle_frames(
                token: ::std::string::String,
                frames: ::std::vec::Vec<
                    $crate::__private::bindings::exports::fermyon::spin::inbound_websocket_receive::ReceivedFrame,
                >,
            ) {
                $crate::__private::handle_frames(
                    ::core::env!("CARGO_PKG_NAME"),
                    &$handler,
                    token,
                    frames,
                );
            }
        }
    };
}

#[doc(hidden)]
#[cfg(not(feature = "sip-016"))]
#[macro_export]
macro_rules! __export_typed_frames {
    ($component:ident, $handler:expr) => {};
}
