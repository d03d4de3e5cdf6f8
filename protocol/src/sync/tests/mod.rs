//! The two machines against each other, without a link between them; and every transition of either.

mod costs;
mod states;
mod world;
