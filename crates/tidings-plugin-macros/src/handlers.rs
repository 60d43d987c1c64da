//! From an `impl` block with marked methods to an implementation of `PlatformEventHandler`. Whatever does not fit is
//! refused with a sentence, where it stands.

use std::collections::BTreeSet;

use proc_macro2::TokenStream;
use quote::quote;
use syn::ext::IdentExt as _;
use syn::parse::{Parse, ParseStream};
use syn::spanned::Spanned as _;
use syn::{
    Attribute, Error, FnArg, Ident, ImplItem, ImplItemFn, ItemImpl, LitBool, LitStr, Result,
    ReturnType, Token, Type,
};

/// What a method needs to look like.
const FORM: &str =
    "a handler is a method `fn(&self, payload: T, event: &PlatformEvent) -> Result<(), E>`";
/// The longest key of an event, in characters.
const MAX_KEY: usize = 128;
/// The longest id of an extension, in characters.
const MAX_EXTENSION: usize = 64;

/// One argument of an attribute, `name = value`. The names are read with keywords: `async` is one.
struct Arguments {
    given: Vec<(Ident, syn::Lit)>,
}

impl Parse for Arguments {
    fn parse(input: ParseStream<'_>) -> Result<Self> {
        let mut given = Vec::new();
        while !input.is_empty() {
            let name = Ident::parse_any(input)?;
            input.parse::<Token![=]>()?;
            given.push((name, input.parse()?));
            if !input.is_empty() {
                input.parse::<Token![,]>()?;
            }
        }
        Ok(Self { given })
    }
}

/// A method that handles an event.
struct Handler {
    method: Ident,
    event_key: LitStr,
    is_async: bool,
    payload: Type,
}

/// What stands for an attribute on a method of no marked block.
pub(crate) fn outside(method: TokenStream) -> Error {
    let says = "#[event_handler] belongs on a method inside an impl block marked #[event_handlers]";
    Error::new_spanned(method, says)
}

/// The block without the marks, and what they stand for.
pub(crate) fn expand(arguments: TokenStream, block: TokenStream) -> Result<TokenStream> {
    let extension = extension(syn::parse2(arguments)?)?;
    let mut block: ItemImpl = syn::parse2(block)?;
    if let Some((_, path, _)) = &block.trait_ {
        let says =
            "#[event_handlers] belongs on an inherent impl block; it writes the trait's itself";
        return Err(Error::new_spanned(path, says));
    }
    if !block.generics.params.is_empty() {
        let says = "a plugin is one type: the impl block has no generic parameters";
        return Err(Error::new_spanned(&block.generics, says));
    }
    let handlers = take_handlers(&mut block)?;
    let name = &block.self_ty;
    let (keys, asyncs): (Vec<_>, Vec<_>) = handlers
        .iter()
        .map(|handler| (&handler.event_key, handler.is_async))
        .unzip();
    let arms = handlers.iter().map(|handler| {
        let (key, method, payload) = (&handler.event_key, &handler.method, &handler.payload);
        quote! {
            #key => {
                let payload: #payload = event.payload()?;
                ::core::result::Result::map_err(
                    Self::#method(self, payload, event),
                    ::core::convert::Into::into,
                )
            }
        }
    });
    Ok(quote! {
        #block

        impl ::tidings_plugin::PlatformEventHandler for #name {
            fn extension(&self) -> &str {
                #extension
            }

            fn handlers(&self) -> ::std::vec::Vec<::tidings_plugin::Handler> {
                ::std::vec![#(::tidings_plugin::Handler::new(#keys, #asyncs)),*]
            }

            fn handle(
                &self,
                event: &::tidings_plugin::PlatformEvent,
            ) -> ::core::result::Result<(), ::tidings_plugin::HandlerError> {
                match event.event_key.as_str() {
                    #(#arms)*
                    _ => ::core::result::Result::Err(::tidings_plugin::HandlerError::no_handler(event)),
                }
            }
        }
    })
}

/// `extension = "crm"`.
fn extension(arguments: Arguments) -> Result<LitStr> {
    let mut named = None;
    for (name, value) in arguments.given {
        match (name.to_string().as_str(), value) {
            ("extension", syn::Lit::Str(text)) => named = Some(text),
            ("extension", other) => {
                return Err(Error::new_spanned(other, "`extension` is a text: \"crm\""));
            }
            (other, _) => {
                let says =
                    format!("#[event_handlers] has no argument `{other}`; it has `extension`");
                return Err(Error::new(name.span(), says));
            }
        }
    }
    let says = "say which extension this is: #[event_handlers(extension = \"crm\")]";
    let named = named.ok_or_else(|| Error::new(proc_macro2::Span::call_site(), says))?;
    let text = named.value();
    if text.len() > MAX_EXTENSION || !is_word(&text) {
        let says = format!(
            "{text:?} is not the id of an extension: 1 to {MAX_EXTENSION} of a-z, 0-9, _ or -, \
             starting with a letter"
        );
        return Err(Error::new_spanned(named, says));
    }
    Ok(named)
}

fn take_handlers(block: &mut ItemImpl) -> Result<Vec<Handler>> {
    let (mut handlers, mut known) = (Vec::new(), BTreeSet::new());
    for item in &mut block.items {
        let ImplItem::Fn(method) = item else {
            continue;
        };
        let is_mark = |attribute: &Attribute| {
            let last = attribute.path().segments.last();
            last.is_some_and(|last| last.ident == "event_handler")
        };
        let Some(index) = method.attrs.iter().position(is_mark) else {
            continue;
        };
        let mark = method.attrs.remove(index);
        if let Some(second) = method.attrs.iter().find(|attribute| is_mark(attribute)) {
            let says = "a method handles one event; write a second method for another";
            return Err(Error::new_spanned(second, says));
        }
        let handler = handler(&mark, method)?;
        if !known.insert(handler.event_key.value()) {
            let says = format!(
                "'{}' has a handler already; a plugin has one for each event key",
                handler.event_key.value()
            );
            return Err(Error::new_spanned(&handler.event_key, says));
        }
        handlers.push(handler);
    }
    if handlers.is_empty() {
        let says = "no method of this block is marked #[event_handler(event_key = \"…\")]";
        return Err(Error::new_spanned(&block.self_ty, says));
    }
    Ok(handlers)
}

/// `event_key = "crm.deal.closed", async = true`, and the method below.
fn handler(mark: &Attribute, method: &ImplItemFn) -> Result<Handler> {
    let arguments = match &mark.meta {
        syn::Meta::List(_) => mark.parse_args::<Arguments>()?,
        _ => Arguments { given: Vec::new() },
    };
    let (mut event_key, mut is_async): (Option<LitStr>, Option<LitBool>) = (None, None);
    for (name, value) in arguments.given {
        match (name.to_string().as_str(), value) {
            ("event_key", syn::Lit::Str(text)) => event_key = Some(text),
            ("event_key", other) => {
                let says = "`event_key` is a text: \"crm.deal.closed\"";
                return Err(Error::new_spanned(other, says));
            }
            ("async", syn::Lit::Bool(value)) => is_async = Some(value),
            ("async", other) => {
                return Err(Error::new_spanned(other, "`async` is `true` or `false`"));
            }
            (other, _) => {
                let says = format!(
                    "#[event_handler] has no argument `{other}`; it has `event_key` and `async`"
                );
                return Err(Error::new(name.span(), says));
            }
        }
    }
    let says = "say which event it handles: #[event_handler(event_key = \"crm.deal.closed\")]";
    let event_key = event_key.ok_or_else(|| Error::new_spanned(mark, says))?;
    check_key(&event_key)?;
    Ok(Handler {
        method: method.sig.ident.clone(),
        event_key,
        is_async: is_async.is_some_and(|value| value.value),
        payload: payload(method)?,
    })
}

/// The rule of `EventType`.
fn check_key(event_key: &LitStr) -> Result<()> {
    let text = event_key.value();
    let segments = text.split('.').count();
    if (2..=8).contains(&segments) && text.len() <= MAX_KEY && text.split('.').all(is_word) {
        return Ok(());
    }
    let says = format!(
        "{text:?} is not an event key: 2 to 8 segments of a-z, 0-9, _ or -, each starting with a \
         letter, separated by dots, {MAX_KEY} characters at most"
    );
    Err(Error::new_spanned(event_key, says))
}

fn is_word(text: &str) -> bool {
    let legal =
        |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"_-".contains(&byte);
    text.starts_with(|first: char| first.is_ascii_lowercase()) && text.bytes().all(legal)
}

/// The type of the method's first argument.
fn payload(method: &ImplItemFn) -> Result<Type> {
    let signature = &method.sig;
    if let Some(keyword) = &signature.asyncness {
        let says = "a handler is an ordinary fn, which may block; `async = true` in the attribute has it run \
                    after the publish is acknowledged";
        return Err(Error::new(keyword.span(), says));
    }
    if !signature.generics.params.is_empty() {
        let says = "a handler has no generic parameters: its payload is one type";
        return Err(Error::new_spanned(&signature.generics, says));
    }
    if matches!(signature.output, ReturnType::Default) {
        return Err(Error::new_spanned(signature, FORM));
    }
    let mut inputs = signature.inputs.iter();
    match inputs.next() {
        Some(FnArg::Receiver(this)) if this.reference.is_some() && this.mutability.is_none() => {}
        Some(other) => return Err(Error::new_spanned(other, FORM)),
        None => return Err(Error::new_spanned(signature, FORM)),
    }
    let Some(FnArg::Typed(payload)) = inputs.next() else {
        return Err(Error::new_spanned(signature, FORM));
    };
    if let Type::Reference(by_reference) = &*payload.ty {
        let says = "the payload is handed over by value: take `T`, not `&T`";
        return Err(Error::new_spanned(by_reference, says));
    }
    match (inputs.next(), inputs.next()) {
        (Some(FnArg::Typed(_)), None) => Ok((*payload.ty).clone()),
        (Some(_), Some(third)) => Err(Error::new_spanned(third, FORM)),
        _ => Err(Error::new_spanned(signature, FORM)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(arguments: TokenStream, block: TokenStream) -> String {
        expand(arguments, block).map_or_else(|error| error.to_string(), |_| "fine".to_owned())
    }

    fn of_method(mark: TokenStream, method: TokenStream) -> String {
        let arguments = quote!(extension = "crm");
        said(arguments, quote! { impl Crm { #mark #method } })
    }

    fn good() -> TokenStream {
        quote! { fn closed(&self, deal: Deal, event: &PlatformEvent) -> Result<(), HandlerError> { Ok(()) } }
    }

    #[test]
    fn a_method_is_marked_and_the_marks_go() {
        let mark = quote! { #[event_handler(event_key = "crm.deal.closed", async = true)] };
        let method = good();
        let block = quote! { impl Crm { #mark #method fn other(&self) {} } };
        let made = expand(quote!(extension = "crm"), block)
            .unwrap()
            .to_string();
        assert!(!made.contains("event_handler "), "{made}");
        assert!(
            made.contains("Handler :: new (\"crm.deal.closed\" , true)"),
            "{made}"
        );
        assert!(made.contains("fn other"), "{made}");
    }

    #[test]
    fn what_an_attribute_may_not_say_is_refused_with_a_sentence() {
        for (mark, says) in [
            (quote! { #[event_handler] }, "say which event it handles"),
            (
                quote! { #[event_handler(async = true)] },
                "say which event it handles",
            ),
            (quote! { #[event_handler(event_key = 5)] }, "is a text"),
            (
                quote! { #[event_handler(event_key = "deal")] },
                "is not an event key",
            ),
            (
                quote! { #[event_handler(event_key = "Crm.deal")] },
                "is not an event key",
            ),
            (
                quote! { #[event_handler(event_key = "crm..deal")] },
                "is not an event key",
            ),
            (
                quote! { #[event_handler(event_key = "a.b", async = "yes")] },
                "`true` or `false`",
            ),
            (
                quote! { #[event_handler(event_key = "a.b", sync = true)] },
                "no argument `sync`",
            ),
            (
                quote! { #[event_handler(event_key = "a.b")] #[event_handler(event_key = "a.c")] },
                "handles one event",
            ),
        ] {
            let said = of_method(mark, good());
            assert!(said.contains(says), "{said}");
        }
    }

    #[test]
    fn a_method_of_another_form_is_refused_with_a_sentence() {
        for (method, says) in [
            (
                quote! { async fn a(&self, b: B, c: &C) -> Result<(), E> {} },
                "ordinary fn",
            ),
            (
                quote! { fn a(&mut self, b: B, c: &C) -> Result<(), E> {} },
                "a handler is a method",
            ),
            (
                quote! { fn a(b: B, c: &C) -> Result<(), E> {} },
                "a handler is a method",
            ),
            (
                quote! { fn a(&self, b: B) -> Result<(), E> {} },
                "a handler is a method",
            ),
            (
                quote! { fn a(&self, b: B, c: &C, d: D) -> Result<(), E> {} },
                "a handler is a method",
            ),
            (
                quote! { fn a(&self, b: &B, c: &C) -> Result<(), E> {} },
                "by value",
            ),
            (
                quote! { fn a(&self, b: B, c: &C) {} },
                "a handler is a method",
            ),
            (
                quote! { fn a<B>(&self, b: B, c: &C) -> Result<(), E> {} },
                "no generic",
            ),
        ] {
            let said = of_method(quote! { #[event_handler(event_key = "a.b")] }, method);
            assert!(said.contains(says), "{said}");
        }
    }

    #[test]
    fn a_block_that_is_no_plugin_is_refused_with_a_sentence() {
        let (crm, method) = (quote!(extension = "crm"), good());
        let mark = quote! { #[event_handler(event_key = "a.b")] };
        let twice =
            quote! { impl Crm { #mark #method #mark fn again(&self, b: B, c: &C) -> R {} } };
        for (arguments, block, says) in [
            (quote!(), quote! { impl Crm {} }, "which extension"),
            (
                quote!(extension = "Crm"),
                quote! { impl Crm {} },
                "not the id of an extension",
            ),
            (
                quote!(name = "crm"),
                quote! { impl Crm {} },
                "no argument `name`",
            ),
            (
                crm.clone(),
                quote! { impl Crm {} },
                "no method of this block",
            ),
            (
                crm.clone(),
                quote! { impl Clone for Crm {} },
                "inherent impl",
            ),
            (crm.clone(), quote! { impl<T> Crm<T> {} }, "no generic"),
            (crm.clone(), twice, "has a handler already"),
            (crm, quote! { struct Crm; }, "expected `impl`"),
        ] {
            let said = said(arguments, block);
            assert!(said.contains(says), "{said}");
        }
        assert!(
            outside(quote!(
                fn a() {}
            ))
            .to_string()
            .contains("belongs on a method")
        );
    }
}
