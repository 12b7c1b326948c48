//! Protobuf messages as arguments and as answers.

use bytes::Bytes;
use prost::Message;

use super::{FromBody, Parts, ViaBody};
use crate::{
    error::HandlerError,
    reply::{IntoReply, Outcome, Reply},
};

/// A protobuf message: as an argument the body, as a result the answer. That is what remotes of Pitaya servers take and give, and handlers for
/// clients whose bodies are protobuf (`protocol.pitaya_serializer = "protobuf"`).
///
/// `T` is any message of `prost` 0.14; write it with its derive macro, or let `prost-build` make it from a `.proto` file. Bytes that are no such
/// message answer the request with [`codes::BAD_REQUEST`](crate::error::codes::BAD_REQUEST).
///
/// ```
/// use shaddock::prelude::*;
///
/// #[derive(Clone, PartialEq, prost::Message)]
/// struct Score {
///     #[prost(string, tag = "1")]
///     player: String,
///     #[prost(uint64, tag = "2")]
///     points: u64,
/// }
///
/// async fn double(Protobuf(score): Protobuf<Score>) -> Protobuf<Score> {
///     Protobuf(Score { points: score.points * 2, ..score })
/// }
/// # let mut app = App::new("game", "game-1");
/// app.remote("scoreRemote.double", double);
///
/// // On any server; the one that is called may be in Go.
/// async fn ask(Ctx(app): Ctx) -> Result<Json<u64>, HandlerError> {
///     let score = Score { player: "ann".to_owned(), points: 21 };
///     let doubled: Score = app.rpc("game.scoreRemote.double").call_protobuf(&score).await?;
///     Ok(Json(doubled.points))
/// }
/// ```
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Protobuf<T>(pub T);

#[diagnostic::do_not_recommend]
impl<T: Message + Default + 'static> FromBody<ViaBody> for Protobuf<T> {
    fn from_body(_parts: &Parts<'_>, body: &Bytes) -> Result<Self, HandlerError> {
        T::decode(body.clone()).map(Self).map_err(|error| {
            HandlerError::bad_request("the body is not what the handler expects").with_source(error)
        })
    }
}

#[diagnostic::do_not_recommend]
impl<T: Message> IntoReply for Protobuf<T> {
    fn into_reply(self) -> Outcome {
        Ok(Reply::raw(self.0.encode_to_vec()))
    }
}
