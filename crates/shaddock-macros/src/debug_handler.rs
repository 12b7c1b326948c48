use proc_macro2::TokenStream;
pub(crate) fn expand(_attributes: TokenStream, item: TokenStream) -> TokenStream {
    item
}
