use shaddock::prelude::*;

struct Move;

#[shaddock::debug_handler]
async fn handler(Json(_move): Json<Move>) {}

fn main() {}
