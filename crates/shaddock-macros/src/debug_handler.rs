//! `#[debug_handler]`: one small check for each part of a handler, with the span of that part.

use proc_macro2::TokenStream;
use quote::{ToTokens as _, quote, quote_spanned};
use syn::{Error, FnArg, ItemFn, ReturnType, Type, parse2, spanned::Spanned as _};

/// The maximum number of extractors, including the one that reads the body.
const MOST_ARGUMENTS: usize = 9;

/// Extractors that read the body, by the last segment of their path.
const READ_THE_BODY: [&str; 2] = ["Json", "Body"];

pub(crate) fn expand(attributes: &TokenStream, item: &TokenStream) -> TokenStream {
    let mut errors = None;
    if !attributes.is_empty() {
        let error = Error::new_spanned(attributes, "`debug_handler` takes no arguments");
        add(&mut errors, error);
    }
    let mut checked = TokenStream::new();
    if let Ok(function) = parse2::<ItemFn>(item.clone()) {
        if let Err(error) = check_shape(&function) {
            add(&mut errors, error);
        }
        // Checks of a function with the wrong shape would only repeat the same errors.
        if errors.is_none() {
            checked = checks(&function);
        }
    } else {
        let error = Error::new_spanned(item, "`debug_handler` is for functions only");
        add(&mut errors, error);
    }
    let errors = errors.as_ref().map(Error::to_compile_error);
    quote! { #item #checked #errors }
}

fn add(errors: &mut Option<Error>, error: Error) {
    match errors {
        Some(errors) => errors.combine(error),
        none => *none = Some(error),
    }
}

/// Checks that need no types.
fn check_shape(function: &ItemFn) -> Result<(), Error> {
    let signature = &function.sig;
    let mut errors = None;
    if signature.asyncness.is_none() && !returns_impl(&signature.output) {
        add(
            &mut errors,
            Error::new_spanned(signature.fn_token, "a handler must be an `async fn`"),
        );
    }
    if let Some(parameter) = signature.generics.params.first() {
        let text = "a handler cannot have generic parameters: it is registered as one function";
        add(&mut errors, Error::new_spanned(parameter, text));
    }
    let count = signature.inputs.len();
    if let Some(too_many) = signature.inputs.iter().nth(MOST_ARGUMENTS) {
        let text =
            format!("a handler takes at most {MOST_ARGUMENTS} arguments, this is one too many");
        add(&mut errors, Error::new_spanned(too_many, text));
    }
    for (index, argument) in signature.inputs.iter().enumerate() {
        match argument {
            FnArg::Receiver(receiver) => {
                let text = "a handler is a free function: state comes in through `State<T>` and not through `self`";
                add(&mut errors, Error::new_spanned(receiver, text));
            }
            FnArg::Typed(argument) => {
                if let Err(error) = check_argument(&argument.ty, index + 1 == count) {
                    add(&mut errors, error);
                }
            }
        }
    }
    errors.map_or(Ok(()), Err)
}

fn check_argument(argument: &Type, is_last: bool) -> Result<(), Error> {
    match argument {
        Type::ImplTrait(_) => Err(Error::new_spanned(
            argument,
            "an argument of a handler must name its type",
        )),
        Type::Reference(_) => Err(Error::new_spanned(
            argument,
            "a handler owns its arguments, because it may outlive the request's bytes: take the value and not a reference",
        )),
        Type::Path(path) if !is_last => match path.path.segments.last() {
            Some(name) if READ_THE_BODY.iter().any(|reader| name.ident == reader) => {
                Err(Error::new_spanned(
                    argument,
                    format!(
                        "`{}` reads the body of the request, so it must be the last argument",
                        name.ident
                    ),
                ))
            }
            _ => Ok(()),
        },
        _ => Ok(()),
    }
}

fn returns_impl(output: &ReturnType) -> bool {
    matches!(output, ReturnType::Type(_, returned) if matches!(**returned, Type::ImplTrait(_)))
}

/// Code that compiles if, and only if, the function is a handler.
fn checks(function: &ItemFn) -> TokenStream {
    let types: Vec<&Type> = function
        .sig
        .inputs
        .iter()
        .filter_map(|argument| match argument {
            FnArg::Typed(argument) => Some(&*argument.ty),
            FnArg::Receiver(_) => None,
        })
        .collect();
    let arguments = types.iter().enumerate().map(|(index, argument)| {
        let span = argument.span();
        if index + 1 == types.len() {
            quote_spanned! {span=>
                const _: fn() = || {
                    fn last_argument<M, T: ::shaddock::extract::FromBody<M>>() {}
                    last_argument::<_, #argument>();
                };
            }
        } else {
            quote_spanned! {span=>
                const _: fn() = || {
                    fn argument<T: ::shaddock::extract::FromParts>() {}
                    argument::<#argument>();
                };
            }
        }
    });
    let answer = check_answer(function);
    let future = check_future(function, &types);
    quote! {
        #[cfg(debug_assertions)]
        const _: () = {
            #(#arguments)*
            #answer
            #future
        };
    }
}

fn check_answer(function: &ItemFn) -> TokenStream {
    match &function.sig.output {
        ReturnType::Type(_, returned) if !matches!(**returned, Type::ImplTrait(_)) => {
            quote_spanned! {returned.span()=>
                const _: fn() = || {
                    fn answer<T: ::shaddock::reply::IntoReply>() {}
                    answer::<#returned>();
                };
            }
        }
        _ => TokenStream::new(),
    }
}

/// The future moves between threads.
fn check_future(function: &ItemFn, types: &[&Type]) -> TokenStream {
    let name = &function.sig.ident;
    let names: Vec<_> = (0..types.len())
        .map(|index| quote::format_ident!("argument_{index}"))
        .collect();
    let span = name.to_token_stream().span();
    quote_spanned! {span=>
        const _: fn() = || {
            fn future_is_send<T: ::core::marker::Send>(_: T) {}
            let _ = |#(#names: #types),*| future_is_send(#name(#(#names),*));
        };
    }
}
