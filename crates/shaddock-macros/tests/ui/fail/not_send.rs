use std::rc::Rc;

use shaddock::prelude::*;

#[shaddock::debug_handler]
async fn handler(Ctx(_app): Ctx) {
    let held = Rc::new(1);
    std::future::ready(()).await;
    drop(held);
}

fn main() {}
