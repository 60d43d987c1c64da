#![doc = include_str!("../README.md")]

mod handlers;

use proc_macro::TokenStream;

/// Makes an `impl` block the plugin of an extension: `#[event_handlers(extension = "crm")]`.
#[proc_macro_attribute]
pub fn event_handlers(arguments: TokenStream, block: TokenStream) -> TokenStream {
    handlers::expand(arguments.into(), block.into())
        .unwrap_or_else(syn::Error::into_compile_error)
        .into()
}

/// Makes a method of such a block the handler of an event: `#[event_handler(event_key = "crm.deal.closed", async =
/// true)]`.
#[proc_macro_attribute]
pub fn event_handler(_: TokenStream, method: TokenStream) -> TokenStream {
    handlers::outside(method.into()).into_compile_error().into()
}
