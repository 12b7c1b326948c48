//! A handler with its types, behind the interface without them.

use std::{marker::PhantomData, panic::Location, sync::Arc};

use shaddock_cluster::RemoteCall;

use super::{BoxFuture, Complete, Erased, Handler, HandlerTable, RouteEntry, ToCaller, Work};
use crate::{
    answer::ToClient,
    app::AppHandle,
    extract::{Parts, Requirements},
    filter::Filters,
    reply::{IntoReply, Outcome},
    request::RequestContext,
};

pub(crate) struct Typed<H, T> {
    handler: H,
    arguments: PhantomData<fn(T)>,
}

impl<H: Handler<T>, T: 'static> Typed<H, T> {
    /// Adds the handler to a table, under `route`, which is `handler.method`.
    ///
    /// # Panics
    /// If the route is taken.
    pub(crate) fn add_to<'a>(
        table: &'a mut HandlerTable,
        route: String,
        handler: H,
        at: &Location<'_>,
    ) -> RouteEntry<'a> {
        let erased = Arc::new(Self {
            handler,
            arguments: PhantomData,
        });
        table.insert(route, erased, H::Reply::TELLS, at)
    }

    fn start<K: Complete>(&self, request: Box<RequestContext>, done: K) -> BoxFuture<K::Output> {
        Box::pin(Work::start(request, done, |request| {
            self.handler.call(&Parts::of_request(request))
        }))
    }
}

impl<H: Handler<T>, T: 'static> Erased for Typed<H, T> {
    fn to_client(&self, request: Box<RequestContext>, filters: &Arc<Filters>) -> BoxFuture<()> {
        self.start(request, ToClient::of(filters))
    }

    fn to_caller(
        &self,
        request: Box<RequestContext>,
        filters: &Arc<Filters>,
    ) -> BoxFuture<Outcome> {
        self.start(request, ToCaller::of(filters))
    }

    fn to_remote(&self, app: &AppHandle, call: &RemoteCall) -> BoxFuture<Outcome> {
        match self.handler.call(&Parts::of_call(app, call)) {
            Ok(future) => Box::pin(async move { future.await.into_reply() }),
            Err(error) => Box::pin(std::future::ready(Err(error))),
        }
    }

    fn requirements(&self, needs: &mut Requirements) {
        H::requirements(needs);
    }
}
