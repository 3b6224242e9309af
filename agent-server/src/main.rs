//! .
fn main() {
    common::multicall::dispatch();
}
